use super::*;
use crate::record::{Context, Prefix};
use crate::rules::{self, Facts};
use crate::state::State;

const AT: i64 = 1_795_237_200_000;

fn set(caps: &str, percent: &str) -> Arc<RuleSet> {
    let text = format!(
        r#"{{"limit_policies":[{{"id":"day","subject":"card","currency":"UZS",{caps},
            "window":{{"kind":"calendar","unit":"day"}}}}],
           "commission_plans":[{{"id":"p","payer":"sender","components":[
            {{"name":"bank","kind":"percent","percent":"{percent}"}}]}}]}}"#
    );
    Arc::new(rules::read(text.as_bytes()).unwrap())
}

#[derive(Default)]
struct Past {
    state: State,
    decisions: Vec<(String, Vec<u8>, String)>,
}

struct Counted<'a>(&'a State);

impl Counts for Counted<'_> {
    fn used(&self, taken: &Taken, place: Place) -> Usage {
        self.0.used(taken.counter, place)
    }

    fn counted(&self, taken: &Taken, place: Place) -> Vec<Counter> {
        self.0.counted(taken.counter, place).copied().collect()
    }
}

impl Past {
    /// Decides as the gateway does, and keeps what it would store.
    fn pay(&mut self, rules: &RuleSet, amount: i64) {
        let facts = Facts {
            operation: "purchase",
            currency: "UZS",
            source_card: "1",
            merchant: "mer_1",
            ..Facts::default()
        };
        let at_ms = AT + self.decisions.len() as i64;
        let asks = asks_of(rules, &facts, amount, at_ms).unwrap();
        let judgement = judge(&asks, false, &Counted(&self.state));
        let commission =
            commission::compute(rules.plan_for(&facts, at_ms).unwrap(), amount).unwrap();
        let context = Context {
            generation: 1,
            at_ms,
            plan: "p",
            plan_version: 1,
            ..Context::default()
        };
        let record = Prefix::new(&context, &facts, amount).judged("UZS", &asks, &judgement);
        let mut lines = String::new();
        if judgement.verdict == Verdict::Admit {
            lines = commission.lines_json();
            for ask in &asks {
                self.state.take(ask.taken().unwrap(), 0);
            }
        }
        let id = format!("pay_{}", self.decisions.len());
        self.decisions.push((id, record, lines));
    }

    fn replay(&self, rules: &Arc<RuleSet>) -> serde_json::Value {
        let mut simulation = Simulation::default();
        simulation.use_rules(1, Arc::clone(rules));
        for (id, record, lines) in &self.decisions {
            simulation
                .feed(Happened::Decision { id, record, lines })
                .unwrap();
        }
        serde_json::from_slice(&simulation.report()).unwrap()
    }
}

fn past() -> Past {
    let rules = set(r#""max_amount":1000"#, "1");
    let mut past = Past::default();
    for amount in [400, 400, 300, 200, 100] {
        past.pay(&rules, amount);
    }
    past
}

#[test]
fn with_nothing_changed_nothing_differs() {
    let report = past().replay(&set(r#""max_amount":1000"#, "1"));
    assert_eq!(5, report["decisions"]);
    assert_eq!(0, report["differing"]);
    assert_eq!(0, report["commission"].as_array().unwrap().len());
}

#[test]
fn a_lower_cap_refuses_some_and_leaves_room_for_others() {
    // 400 passes; 400 more does not; 300 does not; of the 200 and the 100 that follow, 100 do.
    let report = past().replay(&set(r#""max_amount":500"#, "1"));
    assert_eq!(2, report["newly_refused"]["count"]);
    assert_eq!(600, report["newly_refused"]["sum"]["UZS"]);
    assert_eq!("mer_1", report["newly_refused"]["merchants"][0]["merchant"]);
    // 100 was refused when 1000 were used, and passes now that 400 are.
    assert_eq!(1, report["newly_allowed"]["count"]);
    assert_eq!(100, report["newly_allowed"]["sum"]["UZS"]);
}

#[test]
fn a_higher_cap_allows_what_was_refused() {
    let report = past().replay(&set(r#""max_amount":2000"#, "1"));
    assert_eq!(0, report["newly_refused"]["count"]);
    assert_eq!(2, report["newly_allowed"]["count"]);
    assert_eq!(400, report["newly_allowed"]["sum"]["UZS"]);
}

#[test]
fn a_counter_that_was_not_kept_is_built_up() {
    let text = r#"{"limit_policies":[{"id":"other","subject":"merchant","currency":"UZS","max_count":1,
        "window":{"kind":"calendar","unit":"month"}},
        {"id":"day","subject":"card","currency":"UZS","max_amount":1000,
        "window":{"kind":"calendar","unit":"day"}}],
        "commission_plans":[{"id":"p","payer":"sender","components":[
        {"name":"bank","kind":"percent","percent":"1"}]}]}"#;
    let rules = Arc::new(rules::read(text.as_bytes()).unwrap());
    let report = past().replay(&rules);
    // Three were admitted; the first of them is all the new policy lets through.
    assert_eq!(2, report["newly_refused"]["count"]);
}

#[test]
fn a_changed_percent_changes_the_commission_of_what_passed() {
    let report = past().replay(&set(r#""max_amount":1000"#, "2"));
    let row = &report["commission"][0];
    assert_eq!(
        ("p", "bank"),
        (
            row["plan"].as_str().unwrap(),
            row["component"].as_str().unwrap()
        )
    );
    assert_eq!(
        (10, 20, 10),
        (
            row["before"].as_i64().unwrap(),
            row["after"].as_i64().unwrap(),
            row["change"].as_i64().unwrap()
        )
    );
}
