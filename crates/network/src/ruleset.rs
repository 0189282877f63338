//! A table of nftables as data: its text, and the text that makes one of another.
//!
//! Both texts are one transaction for `nft -f`. Making the difference is not only cheaper than
//! replacing the table: the kernel waits for all its processors before it lets go of what was
//! deleted, so a change that only adds takes a quarter of the time, and that is what a launch does.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Table {
    /// Family and name.
    pub name: String,
    pub sets: BTreeMap<String, Set>,
    pub chains: BTreeMap<String, Chain>,
}

/// A set or a map.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Set {
    /// `set` or `map`
    pub kind: String,
    /// Type and flags, each with its semicolon.
    pub properties: String,
    /// Key to value; sets have empty values.
    pub elements: BTreeMap<String, String>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Chain {
    /// Type, hook, priority and policy, where the kernel calls it.
    pub base: Option<String>,
    pub rules: Vec<String>,
}

impl Table {
    pub fn new(name: &str) -> Self {
        Table {
            name: name.to_owned(),
            sets: BTreeMap::new(),
            chains: BTreeMap::new(),
        }
    }

    pub fn set(&mut self, name: &str, properties: &str, elements: impl Iterator<Item = String>) {
        let elements = elements.map(|key| (key, String::new())).collect();
        self.add_set("set", name, properties, elements);
    }

    pub fn map(
        &mut self,
        name: &str,
        properties: &str,
        elements: impl Iterator<Item = (String, String)>,
    ) {
        self.add_set("map", name, properties, elements.collect());
    }

    fn add_set(
        &mut self,
        kind: &str,
        name: &str,
        properties: &str,
        elements: BTreeMap<String, String>,
    ) {
        let set = Set {
            kind: kind.to_owned(),
            properties: properties.to_owned(),
            elements,
        };
        self.sets.insert(name.to_owned(), set);
    }

    pub fn chain(&mut self, name: &str, rules: impl Iterator<Item = String>) {
        let chain = Chain {
            base: None,
            rules: rules.collect(),
        };
        self.chains.insert(name.to_owned(), chain);
    }

    pub fn base_chain(&mut self, name: &str, base: &str, rules: &[&str]) {
        let chain = Chain {
            base: Some(base.to_owned()),
            rules: rules.iter().map(ToString::to_string).collect(),
        };
        self.chains.insert(name.to_owned(), chain);
    }

    /// Makes the table this one, whatever there was.
    pub fn replacement(&self) -> String {
        let name = &self.name;
        format!(
            "table {name}\ndelete table {name}\ntable {name}\n{}",
            self.additions_to(&Table::new(name))
        )
    }

    /// Makes the table this one where it is `before` now; empty if there is nothing to do.
    pub fn change_from(&self, before: &Table) -> String {
        if self.has_redefinitions_of(before) {
            return self.replacement();
        }
        let name = &self.name;
        let mut text = String::new();
        // What refers to a chain goes before the chain.
        for (set, gone) in self.elements_gone(before) {
            let keys: Vec<&str> = gone.into_iter().collect();
            let _ = writeln!(
                text,
                "delete element {name} {set} {{ {} }}",
                keys.join(", ")
            );
        }
        let gone_chains = keys_gone(&before.chains, &self.chains);
        for chain in &gone_chains {
            let _ = writeln!(text, "flush chain {name} {chain}");
        }
        for (chain, _) in self.chains_changed(before) {
            if before.chains.contains_key(chain) {
                let _ = writeln!(text, "flush chain {name} {chain}");
            }
        }
        text.push_str(&self.additions_to(before));
        for chain in gone_chains {
            let _ = writeln!(text, "delete chain {name} {chain}");
        }
        for set in keys_gone(&before.sets, &self.sets) {
            let _ = writeln!(text, "delete {} {name} {set}", before.sets[set].kind);
        }
        text
    }

    /// What is new, in an order in which everything exists before it is referred to.
    fn additions_to(&self, before: &Table) -> String {
        let name = &self.name;
        let mut text = String::new();
        for (
            set,
            Set {
                kind, properties, ..
            },
        ) in &self.sets
        {
            if !before.sets.contains_key(set) {
                let _ = writeln!(text, "add {kind} {name} {set} {{ {properties} }}");
            }
        }
        for (chain, Chain { base, .. }) in &self.chains {
            if !before.chains.contains_key(chain) {
                let base = base.as_ref().map(|base| format!(" {{ {base} }}"));
                let _ = writeln!(text, "add chain {name} {chain}{}", base.unwrap_or_default());
            }
        }
        for (chain, rules) in self.chains_changed(before) {
            for rule in rules {
                let _ = writeln!(text, "add rule {name} {chain} {rule}");
            }
        }
        for (set, new) in self.elements_new(before) {
            let _ = writeln!(text, "add element {name} {set} {{ {} }}", new.join(", "));
        }
        text
    }

    /// Something that can't become what it should be by adding and deleting.
    fn has_redefinitions_of(&self, before: &Table) -> bool {
        let sets = self.sets.iter().any(|(name, set)| {
            before.sets.get(name).is_some_and(|before| {
                (&before.kind, &before.properties) != (&set.kind, &set.properties)
            })
        });
        let chains = self.chains.iter().any(|(name, chain)| {
            let before = before.chains.get(name);
            before.is_some_and(|before| before.base != chain.base)
        });
        sets || chains || before.name != self.name
    }

    /// Chains that are new or have other rules than before, with the rules that they should have.
    fn chains_changed(&self, before: &Table) -> impl Iterator<Item = (&str, &[String])> {
        self.chains.iter().filter_map(|(name, chain)| {
            let before = before
                .chains
                .get(name)
                .map_or(&[][..], |before| &before.rules);
            (before != chain.rules).then_some((name.as_str(), &chain.rules[..]))
        })
    }

    /// Elements of sets that stay, which go or get another value.
    fn elements_gone<'a>(&'a self, before: &'a Table) -> Vec<(&'a str, BTreeSet<&'a str>)> {
        let both = before.sets.iter().filter_map(|(name, before)| {
            let now = self.sets.get(name);
            // A map that goes lets go of its chains only if it is emptied first.
            let gone = before
                .elements
                .iter()
                .filter(|(key, value)| now.is_none_or(|now| now.elements.get(*key) != Some(value)));
            let gone: BTreeSet<&str> = gone.map(|(key, _)| key.as_str()).collect();
            (!gone.is_empty()).then_some((name.as_str(), gone))
        });
        both.collect()
    }

    fn elements_new(&self, before: &Table) -> Vec<(&str, Vec<String>)> {
        let sets = self.sets.iter().filter_map(|(name, now)| {
            let before = before.sets.get(name);
            let new = now.elements.iter().filter(|(key, value)| {
                before.is_none_or(|before| before.elements.get(*key) != Some(value))
            });
            let new: Vec<String> = new.map(|(key, value)| element(key, value)).collect();
            (!new.is_empty()).then_some((name.as_str(), new))
        });
        sets.collect()
    }
}

fn element(key: &str, value: &str) -> String {
    if value.is_empty() {
        key.to_owned()
    } else {
        format!("{key} : {value}")
    }
}

fn keys_gone<'a, T>(before: &'a BTreeMap<String, T>, now: &BTreeMap<String, T>) -> Vec<&'a str> {
    let gone = before.keys().filter(|name| !now.contains_key(*name));
    gone.map(String::as_str).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Table {
        let mut table = Table::new("inet boira");
        table.set(
            "members",
            "type ipv4_addr;",
            ["10.0.0.1".to_owned()].into_iter(),
        );
        let to = ("\"eni1\"".to_owned(), "goto in-1".to_owned());
        table.map("in_of", "type ifname : verdict;", [to].into_iter());
        table.chain("in-1", ["accept".to_owned()].into_iter());
        let base = "type filter hook input priority 0; policy drop;";
        table.base_chain("to_us", base, &["iifname vmap @in_of"]);
        table
    }

    #[test]
    fn a_replacement_makes_everything() {
        assert_eq!(
            table().replacement(),
            "table inet boira\n\
             delete table inet boira\n\
             table inet boira\n\
             add map inet boira in_of { type ifname : verdict; }\n\
             add set inet boira members { type ipv4_addr; }\n\
             add chain inet boira in-1\n\
             add chain inet boira to_us { type filter hook input priority 0; policy drop; }\n\
             add rule inet boira in-1 accept\n\
             add rule inet boira to_us iifname vmap @in_of\n\
             add element inet boira in_of { \"eni1\" : goto in-1 }\n\
             add element inet boira members { 10.0.0.1 }\n"
        );
    }

    #[test]
    fn a_change_is_only_the_difference() {
        let before = table();
        let mut after = table();
        let members = &mut after.sets.get_mut("members").expect("a set").elements;
        members.remove("10.0.0.1");
        members.insert("10.0.0.2".to_owned(), String::new());
        let map = &mut after.sets.get_mut("in_of").expect("a map").elements;
        map.clear();
        map.insert("\"eni2\"".to_owned(), "goto in-2".to_owned());
        after.chains.remove("in-1");
        after.chain("in-2", ["drop".to_owned()].into_iter());
        assert_eq!(
            after.change_from(&before),
            "delete element inet boira in_of { \"eni1\" }\n\
             delete element inet boira members { 10.0.0.1 }\n\
             flush chain inet boira in-1\n\
             add chain inet boira in-2\n\
             add rule inet boira in-2 drop\n\
             add element inet boira in_of { \"eni2\" : goto in-2 }\n\
             add element inet boira members { 10.0.0.2 }\n\
             delete chain inet boira in-1\n"
        );
    }

    #[test]
    fn what_can_t_be_changed_is_replaced() {
        let mut other = table();
        other.sets.get_mut("members").expect("a set").properties = "type ether_addr;".to_owned();
        assert_eq!(other.change_from(&table()), other.replacement());
        let mut other = table();
        other.chains.get_mut("to_us").expect("a chain").base = None;
        assert_eq!(other.change_from(&table()), other.replacement());
    }
}
