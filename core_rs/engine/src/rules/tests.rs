use super::*;

fn pointers(text: &str) -> Vec<String> {
    match read(text.as_bytes()) {
        Ok(_) => Vec::new(),
        Err(faults) => faults.into_iter().map(|fault| fault.pointer).collect(),
    }
}

fn plan(members: &str) -> String {
    format!(r#"{{"commission_plans":[{{"id":"p","version":1,"payer":"sender"{members}}}]}}"#)
}

fn policy(members: &str) -> String {
    format!(
        r#"{{"limit_policies":[{{"id":"l","version":1,"subject":"card","currency":"UZS"{members}}}]}}"#
    )
}

fn component(members: &str) -> String {
    plan(&format!(r#","components":[{{"name":"c",{members}}}]"#))
}

#[test]
fn what_is_not_understood_is_refused_where_it_stands() {
    const DAY: &str = r#","window":{"kind":"calendar","unit":"day"}"#;
    let p = "/commission_plans/0";
    let l = "/limit_policies/0";
    let c = "/commission_plans/0/components/0";
    for (text, pointer) in [
        ("[]".to_owned(), String::new()),
        ("{".to_owned(), String::new()),
        (r#"{"surprise":1}"#.to_owned(), "/surprise".to_owned()),
        (plan(r#","surprise":1"#), format!("{p}/surprise")),
        (
            plan(r#","match":{"colour":["red"]}"#),
            format!("{p}/match/colour"),
        ),
        (
            plan(r#","match":{"country":["UZ"]}"#),
            format!("{p}/match/country"),
        ),
        (
            plan(r#","match":{"tier":"basic"}"#),
            format!("{p}/match/tier"),
        ),
        (
            plan(r#","match":{"tier":[1]}"#),
            format!("{p}/match/tier/0"),
        ),
        (
            plan(r#","match":{"operation":["gift"]}"#),
            format!("{p}/match/operation/0"),
        ),
        (
            plan(r#","effective_from":"tomorrow""#),
            format!("{p}/effective_from"),
        ),
        (
            plan(
                r#","effective_from":"2026-01-02T00:00:00Z","effective_to":"2026-01-01T00:00:00Z""#,
            ),
            format!("{p}/effective_to"),
        ),
        (plan(r#","priority":1.5"#), format!("{p}/priority")),
        (plan(r#","on_refund":"half""#), format!("{p}/on_refund")),
        (
            plan(r#","split":[{"party":"a","share":"70"},{"party":"b","share":"29.999999"}]"#),
            format!("{p}/split"),
        ),
        (
            plan(r#","split":[{"party":"a","share":"50"},{"party":"a","share":"50"}]"#),
            format!("{p}/split"),
        ),
        (component(r#""kind":"gift""#), format!("{c}/kind")),
        (component(r#""kind":"fixed""#), format!("{c}/amount")),
        (
            component(r#""kind":"fixed","amount":-1"#),
            format!("{c}/amount"),
        ),
        (
            component(r#""kind":"fixed","amount":1,"percent":"1""#),
            format!("{c}/percent"),
        ),
        (
            component(r#""kind":"percent","percent":0.5"#),
            format!("{c}/percent"),
        ),
        (
            component(r#""kind":"percent","percent":"100.000001""#),
            format!("{c}/percent"),
        ),
        (
            component(r#""kind":"percent","percent":"1","min":2,"max":1"#),
            format!("{c}/min"),
        ),
        (
            component(r#""kind":"percent","percent":"1","rounding":"near""#),
            format!("{c}/rounding"),
        ),
        (
            component(r#""kind":"percent","percent":"1","vat_percent":"x""#),
            format!("{c}/vat_percent"),
        ),
        (
            component(r#""kind":"tiered","mode":"volume""#),
            format!("{c}/tiers"),
        ),
        (
            component(r#""kind":"tiered","mode":"steps","tiers":[{}]"#),
            format!("{c}/mode"),
        ),
        (
            component(r#""kind":"tiered","mode":"volume","tiers":[{"up_to":5,"percent":"1"}]"#),
            format!("{c}/tiers"),
        ),
        (
            component(r#""kind":"tiered","mode":"volume","tiers":[{"up_to":5},{"up_to":5},{}]"#),
            format!("{c}/tiers/1/up_to"),
        ),
        (
            component(r#""kind":"tiered","mode":"volume","tiers":[{},{}]"#),
            format!("{c}/tiers/1"),
        ),
        (policy(r#","max_amount":1"#), format!("{l}/window")),
        (policy(DAY), l.to_owned()),
        (
            policy(&format!(r#"{DAY},"min_amount":1"#)),
            format!("{l}/min_amount"),
        ),
        (
            policy(&format!(r#"{DAY},"max_amount":-1"#)),
            format!("{l}/max_amount"),
        ),
        (
            policy(&format!(r#"{DAY},"max_count":1,"on_breach":"shout""#)),
            format!("{l}/on_breach"),
        ),
        (
            policy(r#","max_count":1,"window":{"kind":"rolling","seconds":59}"#),
            format!("{l}/window/seconds"),
        ),
        (
            policy(r#","max_count":1,"window":{"kind":"rolling","seconds":2678401}"#),
            format!("{l}/window/seconds"),
        ),
        (
            policy(r#","max_count":1,"window":{"kind":"operation","unit":"day"}"#),
            format!("{l}/window/unit"),
        ),
        (
            policy(r#","max_count":1,"window":{"kind":"calendar","unit":"decade"}"#),
            format!("{l}/window/unit"),
        ),
        (
            policy(r#","window":{"kind":"operation"},"min_amount":2,"max_amount":1"#),
            format!("{l}/min_amount"),
        ),
        (
            r#"{"rates":[{"currency":"UZS","date":"2026-11-21","rate":"1"}]}"#.to_owned(),
            "/rates/0/currency".to_owned(),
        ),
        (
            r#"{"rates":[{"currency":"USD","date":"2026-11-31","rate":"1"}]}"#.to_owned(),
            "/rates/0/date".to_owned(),
        ),
        (
            r#"{"rates":[{"currency":"USD","date":"2026-11-21","rate":"0"}]}"#.to_owned(),
            "/rates/0/rate".to_owned(),
        ),
    ] {
        assert_eq!(vec![pointer], pointers(&text), "{text}");
    }
}

#[test]
fn everything_wrong_is_told_at_once() {
    let text =
        plan(r#","surprise":1,"on_refund":"half","components":[{"name":"c","kind":"fixed"}]"#);
    assert_eq!(3, pointers(&text).len());
}

fn plans(all: &[&str]) -> String {
    let all: Vec<String> = all
        .iter()
        .map(|members| format!(r#"{{"payer":"sender",{members}}}"#))
        .collect();
    format!(r#"{{"commission_plans":[{}]}}"#, all.join(","))
}

#[test]
fn plans_that_one_payment_can_match_need_different_priorities() {
    let second = vec!["/commission_plans/1".to_owned()];
    for (first, other, collides) in [
        (r#""id":"a""#, r#""id":"b""#, true),
        (r#""id":"a""#, r#""id":"b","priority":1"#, false),
        (
            r#""id":"a","match":{"source_scheme":["humo"]}"#,
            r#""id":"b","match":{"source_scheme":["visa"]}"#,
            false,
        ),
        (
            r#""id":"a","match":{"source_scheme":["humo","visa"]}"#,
            r#""id":"b","match":{"source_scheme":["visa"]}"#,
            true,
        ),
        (
            r#""id":"a","match":{"source_scheme":["humo"]}"#,
            r#""id":"b","match":{"mcc":["5411"]}"#,
            true,
        ),
        (
            r#""id":"a","match":{"source_scheme":["humo"],"mcc":["1"]}"#,
            r#""id":"b","match":{"source_scheme":["humo"],"mcc":["2"]}"#,
            false,
        ),
        (
            r#""id":"a","effective_to":"2026-01-01T00:00:00Z""#,
            r#""id":"b","effective_from":"2026-01-01T00:00:00Z""#,
            false,
        ),
        (
            r#""id":"a","effective_to":"2026-01-01T00:00:01Z""#,
            r#""id":"b","effective_from":"2026-01-01T00:00:00Z""#,
            true,
        ),
        // One version of an id at a time; the priority does not help.
        (
            r#""id":"a","version":1"#,
            r#""id":"a","version":1,"priority":1"#,
            true,
        ),
        (
            r#""id":"a","version":1"#,
            r#""id":"a","version":2,"priority":1"#,
            true,
        ),
    ] {
        let expected = if collides { second.clone() } else { Vec::new() };
        let mut found = pointers(&plans(&[first, other]));
        found.dedup();
        assert_eq!(expected, found, "{first} {other}");
    }
}

#[test]
fn the_highest_priority_in_force_wins() {
    let rules = read(
        plans(&[
            r#""id":"any""#,
            r#""id":"humo","priority":5,"match":{"source_scheme":["humo"]}"#,
            r#""id":"new","priority":9,"effective_from":"2026-11-21T00:00:00+05:00""#,
        ])
        .as_bytes(),
    )
    .unwrap();
    let midnight = 1_795_201_200_000;
    for (scheme, at_ms, id) in [
        ("visa", midnight - 1, "any"),
        ("humo", midnight - 1, "humo"),
        ("humo", midnight, "new"),
    ] {
        let facts = Facts {
            source_scheme: scheme,
            ..Facts::default()
        };
        assert_eq!(id, rules.plan_for(&facts, at_ms).unwrap().id);
    }
}

#[test]
fn reasons_come_operation_first_then_by_priority_then_by_id() {
    let policy = |id: &str, priority: i64, window: &str| {
        format!(
            r#"{{"id":"{id}","priority":{priority},"subject":"platform","currency":"UZS",
                "window":{window},"max_count":1}}"#
        )
    };
    let (day, alone) = (
        r#"{"kind":"calendar","unit":"day"}"#,
        r#"{"kind":"operation"}"#,
    );
    let all = [
        policy("c", 5, day),
        policy("b", 9, day),
        policy("a", 5, day),
        policy("z", 1, alone),
    ];
    let text = format!(r#"{{"limit_policies":[{}]}}"#, all.join(","));
    let rules = read(text.as_bytes()).unwrap();
    let found: Vec<&str> = rules
        .policies_for(&Facts::default(), 0)
        .into_iter()
        .map(|policy| policy.id.as_str())
        .collect();
    assert_eq!(vec!["z", "b", "a", "c"], found);
}

/// What is found by the index is what a look at every rule finds.
#[test]
fn the_index_finds_what_a_scan_finds() {
    let mut seed: u64 = 7;
    let mut draw = |below: u64| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (seed >> 33) % below
    };
    let mut all = Vec::new();
    for number in 0..400 {
        let mut wanted = Vec::new();
        for (name, _) in MatchKey::OF_POLICIES {
            if name != "operation" && draw(3) == 0 {
                let values: Vec<String> = (0..=draw(2))
                    .map(|_| format!(r#""v{}""#, draw(5)))
                    .collect();
                wanted.push(format!(r#""{name}":[{}]"#, values.join(",")));
            }
        }
        all.push(format!(
            r#"{{"id":"l{number}","subject":"platform","currency":"UZS","max_count":1,
                "window":{{"kind":"operation"}},"match":{{{}}}}}"#,
            wanted.join(",")
        ));
    }
    let text = format!(r#"{{"limit_policies":[{}]}}"#, all.join(","));
    let rules = read(text.as_bytes()).unwrap();
    let values: Vec<String> = (0..6).map(|value| format!("v{value}")).collect();
    for _ in 0..500 {
        let mut value = || values[draw(6) as usize].as_str();
        let facts = Facts {
            source_scheme: value(),
            tier: value(),
            channel: value(),
            merchant: value(),
            mcc: value(),
            country: value(),
            ..Facts::default()
        };
        let found: Vec<&str> = rules
            .policies_for(&facts, 0)
            .into_iter()
            .map(|policy| policy.id.as_str())
            .collect();
        let scanned: Vec<&str> = rules
            .policies
            .iter()
            .filter(|policy| {
                policy
                    .matching
                    .iter()
                    .all(|(key, values)| values.iter().any(|value| value == facts.get(*key)))
            })
            .map(|policy| policy.id.as_str())
            .collect();
        assert_eq!(scanned, found);
    }
}
