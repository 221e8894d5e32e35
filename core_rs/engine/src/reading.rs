//! Reading JSON documents member by member, with everything that is wrong told at once.
//!
//! Used for what is not on the hot path's own reader: rules, and the lines of a dated history.

use std::borrow::Cow;

use crate::json::{pointer_of, Value};
use crate::problem::FieldError;

/// Where the reader is, and what it has found wrong.
#[derive(Debug, Default)]
pub struct Faults {
    path: Vec<Cow<'static, str>>,
    pub found: Vec<FieldError>,
}

impl Faults {
    /// Records a fault at a member of where the reader is; `""` is the place itself.
    pub fn at(&mut self, member: &str, detail: impl Into<String>) {
        let mut pointer = pointer_of(&self.path);
        if !member.is_empty() {
            pointer.push_str(&pointer_of(&[member]));
        }
        self.found.push(FieldError {
            pointer,
            detail: detail.into(),
        });
    }

    pub fn enter(&mut self, step: impl Into<Cow<'static, str>>) {
        self.path.push(step.into());
    }

    pub fn leave(&mut self) {
        self.path.pop();
    }
}

/// The members of one object. A null member is the same as an absent one.
#[derive(Debug, Clone, Copy)]
pub struct Object<'v, 'a> {
    members: &'v [(Cow<'a, str>, Value<'a>)],
}

impl<'v, 'a> Object<'v, 'a> {
    /// The object that `value` is, with every member it may have named in `known`.
    pub fn read(value: &'v Value<'a>, known: &[&str], faults: &mut Faults) -> Option<Self> {
        let Value::Object(members) = value else {
            faults.at("", "Must be an object.");
            return None;
        };
        for (name, _) in members {
            if !known.contains(&name.as_ref()) {
                faults.at(name, "This member is not known.");
            }
        }
        Some(Self { members })
    }

    pub fn get(&self, name: &str) -> Option<&'v Value<'a>> {
        let found = self.members.iter().find(|(seen, _)| seen == name);
        found
            .map(|(_, value)| value)
            .filter(|value| **value != Value::Null)
    }

    /// A text of 1 to `length_max` bytes, without control characters.
    pub fn text(&self, name: &str, length_max: usize, faults: &mut Faults) -> Option<&'v str> {
        match self.get(name)? {
            Value::Text(text) if is_plain(text, length_max) => Some(text),
            _ => {
                faults.at(
                    name,
                    format!("Must be text of 1 to {length_max} bytes, without control characters."),
                );
                None
            }
        }
    }

    pub fn needed_text(
        &self,
        name: &str,
        length_max: usize,
        faults: &mut Faults,
    ) -> Option<&'v str> {
        if self.get(name).is_none() {
            faults.at(name, "This member is needed.");
        }
        self.text(name, length_max, faults)
    }

    pub fn integer(&self, name: &str, low: i64, high: i64, faults: &mut Faults) -> Option<i64> {
        let number = match self.get(name)? {
            Value::Number(text) => text.parse().ok(),
            _ => None,
        };
        let in_range = number.filter(|number| (low..=high).contains(number));
        if in_range.is_none() {
            faults.at(name, format!("Must be an integer from {low} to {high}."));
        }
        in_range
    }

    pub fn needed_integer(
        &self,
        name: &str,
        low: i64,
        high: i64,
        faults: &mut Faults,
    ) -> Option<i64> {
        if self.get(name).is_none() {
            faults.at(name, "This member is needed.");
        }
        self.integer(name, low, high, faults)
    }

    pub fn boolean(&self, name: &str, faults: &mut Faults) -> Option<bool> {
        match self.get(name)? {
            Value::Bool(value) => Some(*value),
            _ => {
                faults.at(name, "Must be true or false.");
                None
            }
        }
    }

    /// One of a table's values, by its name.
    pub fn choice<T: Copy>(
        &self,
        name: &str,
        table: &[(&'static str, T)],
        faults: &mut Faults,
    ) -> Option<T> {
        let value = self.get(name)?;
        let chosen = match value {
            Value::Text(text) => table.iter().find(|(known, _)| known == text),
            _ => None,
        };
        if chosen.is_none() {
            let names: Vec<&str> = table.iter().map(|(known, _)| *known).collect();
            faults.at(name, format!("Must be one of: {}.", names.join(", ")));
        }
        chosen.map(|(_, value)| *value)
    }

    pub fn needed_choice<T: Copy>(
        &self,
        name: &str,
        table: &[(&'static str, T)],
        faults: &mut Faults,
    ) -> Option<T> {
        if self.get(name).is_none() {
            faults.at(name, "This member is needed.");
        }
        self.choice(name, table, faults)
    }

    /// Every item of a list, read by `item`; an absent list is empty.
    pub fn list<T>(
        &self,
        name: &'static str,
        faults: &mut Faults,
        mut item: impl FnMut(&'v Value<'a>, &mut Faults) -> Option<T>,
    ) -> Vec<T> {
        let items = match self.get(name) {
            None => return Vec::new(),
            Some(Value::Array(items)) => items,
            Some(_) => {
                faults.at(name, "Must be a list.");
                return Vec::new();
            }
        };
        faults.enter(name);
        let mut read = Vec::with_capacity(items.len());
        for (number, value) in items.iter().enumerate() {
            faults.enter(number.to_string());
            read.extend(item(value, faults));
            faults.leave();
        }
        faults.leave();
        read
    }

    pub fn members(&self) -> &'v [(Cow<'a, str>, Value<'a>)] {
        self.members
    }
}

pub fn is_plain(text: &str, length_max: usize) -> bool {
    (1..=length_max).contains(&text.len()) && !text.chars().any(char::is_control)
}

/// Whether text is an ISO 4217 code.
pub fn is_currency(text: &str) -> bool {
    text.len() == 3 && text.bytes().all(|byte| byte.is_ascii_uppercase())
}
