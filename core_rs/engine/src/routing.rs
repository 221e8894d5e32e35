//! From a card number to its scheme, and from a payment to the legs that carry it.

use std::sync::Arc;

use hashbrown::{Equivalent, HashMap};
use serde::Deserialize;
use thiserror::Error;

#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum RoutingError {
    #[error("{0}")]
    Form(String),
    #[error("{rule}: {reason}")]
    Rule { rule: String, reason: &'static str },
}

/// Longest prefix first. Prefixes are 1 to 8 digits.
#[derive(Debug, Default)]
pub struct BinTable {
    schemes: HashMap<String, String>,
    length_max: usize,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct BinForm {
    prefix: String,
    scheme: String,
    #[serde(default)]
    #[allow(dead_code, reason = "names the issuer for the reader of the file")]
    issuer: Option<String>,
}

impl BinTable {
    fn read(rows: Vec<BinForm>) -> Result<Self, RoutingError> {
        let mut table = Self::default();
        for row in rows {
            let is_prefix = (1..=8).contains(&row.prefix.len())
                && row.prefix.bytes().all(|byte| byte.is_ascii_digit());
            if !is_prefix || table.schemes.contains_key(&row.prefix) {
                let reason = "a BIN prefix is 1 to 8 digits and appears once";
                return Err(RoutingError::Rule {
                    rule: row.prefix,
                    reason,
                });
            }
            table.length_max = table.length_max.max(row.prefix.len());
            table.schemes.insert(row.prefix, row.scheme);
        }
        Ok(table)
    }

    pub fn scheme_of(&self, pan: &str) -> Option<&str> {
        (1..=self.length_max.min(pan.len()))
            .rev()
            .find_map(|length| self.schemes.get(pan.get(..length)?))
            .map(String::as_str)
    }
}

/// One message to one processor: `kind` in the words of the connector interface.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Leg {
    pub connector: String,
    pub kind: String,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct RouteForm {
    operation: String,
    #[serde(default)]
    source_scheme: String,
    #[serde(default)]
    destination_scheme: String,
    currencies: Vec<String>,
    legs: Vec<Leg>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct TableForm {
    bins: Vec<BinForm>,
    routes: Vec<RouteForm>,
}

#[derive(Debug)]
struct Route {
    currencies: Vec<String>,
    legs: Arc<[Leg]>,
}

#[derive(Debug, Default)]
pub struct RoutingTable {
    pub bins: BinTable,
    routes: HashMap<(String, String, String), Route>,
}

/// A key of `routes` that is borrowed.
#[derive(Hash)]
struct Asked<'a>(&'a str, &'a str, &'a str);

impl Equivalent<(String, String, String)> for Asked<'_> {
    fn equivalent(&self, key: &(String, String, String)) -> bool {
        (self.0, self.1, self.2) == (key.0.as_str(), key.1.as_str(), key.2.as_str())
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoRoute {
    Operation,
    Currency,
}

impl RoutingTable {
    /// Reads `{"bins": [{prefix, scheme}], "routes": [{operation, source_scheme,
    /// destination_scheme, currencies, legs: [{connector, kind}]}]}`.
    pub fn read(text: &[u8]) -> Result<Self, RoutingError> {
        let form: TableForm =
            serde_json::from_slice(text).map_err(|error| RoutingError::Form(error.to_string()))?;
        let mut routes = HashMap::new();
        for route in form.routes {
            let key = (
                route.operation,
                route.source_scheme,
                route.destination_scheme,
            );
            if route.legs.is_empty() || routes.contains_key(&key) {
                let rule = format!("{} {} {}", key.0, key.1, key.2);
                let reason = "a route has at least one leg and appears once";
                return Err(RoutingError::Rule { rule, reason });
            }
            let (currencies, legs) = (route.currencies, route.legs.into());
            routes.insert(key, Route { currencies, legs });
        }
        Ok(Self {
            bins: BinTable::read(form.bins)?,
            routes,
        })
    }

    /// The legs in order. An absent scheme is `""`.
    pub fn legs(
        &self,
        operation: &str,
        source_scheme: &str,
        destination_scheme: &str,
        currency: &str,
    ) -> Result<&Arc<[Leg]>, NoRoute> {
        let asked = Asked(operation, source_scheme, destination_scheme);
        let route = self.routes.get(&asked).ok_or(NoRoute::Operation)?;
        if route.currencies.iter().any(|listed| listed == currency) {
            Ok(&route.legs)
        } else {
            Err(NoRoute::Currency)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_prefix_decides() {
        let table = RoutingTable::read(
            br#"{"bins":[{"prefix":"4","scheme":"visa"},{"prefix":"49169903","scheme":"other"},
                {"prefix":"9860","scheme":"humo"}],"routes":[]}"#,
        )
        .unwrap();
        assert_eq!(Some("visa"), table.bins.scheme_of("4242420000000018"));
        assert_eq!(Some("other"), table.bins.scheme_of("4916990300000000"));
        assert_eq!(Some("humo"), table.bins.scheme_of("9860000000000018"));
        assert_eq!(None, table.bins.scheme_of("5500000000000004"));
        assert_eq!(None, table.bins.scheme_of(""));
    }

    #[test]
    fn a_route_without_legs_or_twice_is_refused() {
        let route = r#"{"operation":"payout","destination_scheme":"visa","currencies":["UZS"],
            "legs":[{"connector":"visa","kind":"credit"}]}"#;
        let read = |routes: &str| {
            RoutingTable::read(format!(r#"{{"bins":[],"routes":[{routes}]}}"#).as_bytes())
        };
        let table = read(route).unwrap();
        assert_eq!(
            "credit",
            table.legs("payout", "", "visa", "UZS").unwrap()[0].kind
        );
        assert_eq!(
            Err(NoRoute::Currency),
            table.legs("payout", "", "visa", "USD")
        );
        assert_eq!(
            Err(NoRoute::Operation),
            table.legs("payout", "", "humo", "UZS")
        );
        assert!(read(&format!("{route},{route}")).is_err());
    }
}
