//! Finding the rules that match a payment without looking at those that cannot.
//!
//! Rules that ask the same of a payment are one group, asked once. A group is filed under the
//! values of one thing it asks for, the one that the fewest others ask for; those that ask for
//! nothing are looked at always. Within a group, rules that have ended are not reached.

use std::collections::BTreeMap;

use hashbrown::HashMap;

use super::{Effective, Facts};
use crate::problem::FieldError;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum MatchKey {
    Merchant,
    Mcc,
    Country,
    Tier,
    Channel,
    Currency,
    DestinationScheme,
    SourceScheme,
    Scheme,
    Operation,
}

impl MatchKey {
    pub const OF_PLANS: [(&'static str, Self); 8] = [
        ("operation", Self::Operation),
        ("source_scheme", Self::SourceScheme),
        ("destination_scheme", Self::DestinationScheme),
        ("tier", Self::Tier),
        ("channel", Self::Channel),
        ("merchant", Self::Merchant),
        ("mcc", Self::Mcc),
        ("currency", Self::Currency),
    ];
    pub const OF_POLICIES: [(&'static str, Self); 7] = [
        ("operation", Self::Operation),
        ("scheme", Self::Scheme),
        ("tier", Self::Tier),
        ("channel", Self::Channel),
        ("merchant", Self::Merchant),
        ("mcc", Self::Mcc),
        ("country", Self::Country),
    ];
}

/// Sorted values, none of them empty; a key without values is not there.
pub type Match = BTreeMap<MatchKey, Vec<String>>;

fn holds(wanted: &Match, facts: &Facts<'_>) -> bool {
    wanted.iter().all(|(key, values)| {
        let fact = facts.get(*key);
        values.iter().any(|value| value == fact)
    })
}

/// What a rule of either kind is found and told apart by.
pub struct Rule<'a> {
    pub id: &'a str,
    pub version: u32,
    pub matching: &'a Match,
    pub effective: Effective,
}

impl Rule<'_> {
    /// Whether some payment at some moment could match both.
    fn meets(&self, other: &Self) -> bool {
        self.effective.overlaps(&other.effective)
            && self.matching.iter().all(|(key, values)| {
                other
                    .matching
                    .get(key)
                    .is_none_or(|others| values.iter().any(|value| others.contains(value)))
            })
    }
}

pub struct Rules<'a>(Vec<Rule<'a>>);

impl<'a> Rules<'a> {
    pub fn of<T>(all: &'a [T], rule: impl Fn(&'a T) -> Rule<'a>) -> Self {
        Self(all.iter().map(rule).collect())
    }

    /// Finds versions that appear twice, and versions of one id in force at the same time.
    pub fn twins(&self, pointer: &str, faults: &mut Vec<FieldError>) {
        let mut seen: HashMap<&str, Vec<&Rule<'_>>> = HashMap::new();
        for (number, rule) in self.0.iter().enumerate() {
            let earlier = seen.entry(rule.id).or_default();
            let detail = if earlier.iter().any(|other| other.version == rule.version) {
                "This version of this id appears twice."
            } else if earlier
                .iter()
                .any(|other| other.effective.overlaps(&rule.effective))
            {
                "Another version of this id is in force at the same time."
            } else {
                earlier.push(rule);
                continue;
            };
            earlier.push(rule);
            faults.push(FieldError {
                pointer: format!("{pointer}/{number}"),
                detail: detail.to_owned(),
            });
        }
    }

    /// Finds rules of equal priority that one payment can match, the later of each pair.
    pub fn collisions(
        &self,
        pointer: &str,
        priority: impl Fn(usize) -> i64,
        faults: &mut Vec<FieldError>,
    ) {
        let mut by_priority: HashMap<i64, Vec<usize>> = HashMap::new();
        for number in 0..self.0.len() {
            by_priority
                .entry(priority(number))
                .or_default()
                .push(number);
        }
        let mut found: Vec<(usize, usize)> = by_priority
            .values()
            .filter(|group| group.len() > 1)
            .flat_map(|group| self.collisions_among(group))
            .collect();
        found.sort_unstable();
        faults.extend(found.into_iter().map(|(later, earlier)| FieldError {
            pointer: format!("{pointer}/{later}"),
            detail: format!(
                "It can match the same payment as {} version {}, with the same priority.",
                self.0[earlier].id, self.0[earlier].version
            ),
        }));
    }

    fn collisions_among(&self, group: &Vec<usize>) -> Vec<(usize, usize)> {
        let mut asking: HashMap<(MatchKey, &str), Vec<usize>> = HashMap::new();
        let mut not_asking: HashMap<MatchKey, Vec<usize>> = HashMap::new();
        let mut keys: Vec<MatchKey> = Vec::new();
        for number in group {
            for (key, values) in self.0[*number].matching {
                if !keys.contains(key) {
                    keys.push(*key);
                }
                for value in values {
                    asking.entry((*key, value)).or_default().push(*number);
                }
            }
        }
        for key in keys {
            let without = group
                .iter()
                .copied()
                .filter(|number| !self.0[*number].matching.contains_key(&key));
            not_asking.insert(key, without.collect());
        }
        let mut found = Vec::new();
        for later in group {
            let rule = &self.0[*later];
            // Whoever meets it shares a value of each thing it asks for, or does not ask for it.
            let nearest = rule
                .matching
                .iter()
                .map(|(key, values)| {
                    let lists: Vec<&Vec<usize>> = values
                        .iter()
                        .filter_map(|value| asking.get(&(*key, value.as_str())))
                        .chain(not_asking.get(key))
                        .collect();
                    lists
                })
                .min_by_key(|lists| lists.iter().map(|list| list.len()).sum::<usize>());
            let earlier = nearest
                .unwrap_or_else(|| vec![group])
                .into_iter()
                .flatten()
                .copied()
                .filter(|other| other < later && self.0[*other].meets(rule))
                .min();
            found.extend(earlier.map(|earlier| (*later, earlier)));
        }
        found
    }

    pub fn index(&self) -> Index {
        let mut groups: Vec<Group> = Vec::new();
        let mut known: HashMap<&Match, usize> = HashMap::new();
        for (number, rule) in self.0.iter().enumerate() {
            let group = *known.entry(rule.matching).or_insert_with(|| {
                groups.push(Group {
                    wanted: rule.matching.clone(),
                    rules: Vec::new(),
                });
                groups.len() - 1
            });
            groups[group].rules.push((rule.effective, number));
        }
        for group in &mut groups {
            group
                .rules
                .sort_by_key(|(effective, _)| std::cmp::Reverse(effective.to_ms));
        }
        let mut popularity: HashMap<(MatchKey, &str), usize> = HashMap::new();
        for group in &groups {
            for (key, values) in &group.wanted {
                for value in values {
                    *popularity.entry((*key, value)).or_default() += 1;
                }
            }
        }
        let mut open = Vec::new();
        let mut filed: BTreeMap<MatchKey, ByValue> = BTreeMap::new();
        for (number, group) in groups.iter().enumerate() {
            let rarest = group.wanted.iter().min_by_key(|(key, values)| {
                let popular = values
                    .iter()
                    .map(|value| popularity[&(**key, value.as_str())]);
                popular.max().unwrap_or(0)
            });
            let Some((key, values)) = rarest else {
                open.push(number);
                continue;
            };
            let by_value = filed.entry(*key).or_default();
            for value in values {
                by_value.entry_ref(value.as_str()).or_default().push(number);
            }
        }
        drop(popularity);
        Index {
            filed: filed.into_iter().collect(),
            open,
            groups,
        }
    }
}

/// Groups by a value they ask for.
type ByValue = HashMap<Box<str>, Vec<usize>>;

#[derive(Debug)]
struct Group {
    wanted: Match,
    /// The last to end comes first.
    rules: Vec<(Effective, usize)>,
}

#[derive(Debug, Default)]
pub struct Index {
    filed: Vec<(MatchKey, ByValue)>,
    open: Vec<usize>,
    groups: Vec<Group>,
}

impl Index {
    /// Calls `found` with the number of every rule that matches at a moment, in no order.
    pub fn matching(&self, facts: &Facts<'_>, at_ms: i64, mut found: impl FnMut(usize)) {
        let mut visit = |number: usize| {
            let group = &self.groups[number];
            if !holds(&group.wanted, facts) {
                return;
            }
            for (effective, rule) in &group.rules {
                if effective.to_ms <= at_ms {
                    break;
                }
                if effective.contains(at_ms) {
                    found(*rule);
                }
            }
        };
        for number in &self.open {
            visit(*number);
        }
        for (key, by_value) in &self.filed {
            if let Some(numbers) = by_value.get(facts.get(*key)) {
                numbers.iter().for_each(|number| visit(*number));
            }
        }
    }
}
