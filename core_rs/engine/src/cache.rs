//! A bounded map that forgets what was not used lately, in two generations.
//!
//! When the young generation is full it becomes the old one, and what was old is forgotten. An
//! entry found in the old one moves to the young. Memory is at most two generations.

use std::hash::Hash;

use hashbrown::{Equivalent, HashMap};

/// How a cache is used: its entries now, and how often one was asked for that was there, or not.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Use {
    pub size: usize,
    pub hits: u64,
    pub misses: u64,
}

#[derive(Debug)]
pub struct GenerationalCache<K, V> {
    young: HashMap<K, V>,
    old: HashMap<K, V>,
    generation_size_max: usize,
    hits: u64,
    misses: u64,
}

impl<K: Eq + Hash, V> GenerationalCache<K, V> {
    pub fn new(generation_size_max: usize) -> Self {
        Self {
            young: HashMap::new(),
            old: HashMap::new(),
            generation_size_max,
            hits: 0,
            misses: 0,
        }
    }

    /// How it was used so far.
    pub fn usage(&self) -> Use {
        Use {
            size: self.len(),
            hits: self.hits,
            misses: self.misses,
        }
    }

    pub fn get<Q>(&mut self, key: &Q) -> Option<&V>
    where
        Q: Hash + Equivalent<K> + ?Sized,
    {
        // Never in both, so that the young one need not be looked into first.
        if !self.old.is_empty() {
            if let Some((key, value)) = self.old.remove_entry(key) {
                self.insert(key, value);
            }
        }
        let found = self.young.get(key);
        let asked = match found {
            Some(_) => &mut self.hits,
            None => &mut self.misses,
        };
        *asked = asked.wrapping_add(1);
        found
    }

    pub fn insert(&mut self, key: K, value: V) {
        if self.young.len() >= self.generation_size_max {
            self.old = std::mem::take(&mut self.young);
        }
        self.old.remove(&key);
        self.young.insert(key, value);
    }

    pub fn remove<Q>(&mut self, key: &Q)
    where
        Q: Hash + Equivalent<K> + ?Sized,
    {
        self.young.remove(key);
        self.old.remove(key);
    }

    pub fn clear(&mut self) {
        self.young.clear();
        self.old.clear();
    }

    pub fn len(&self) -> usize {
        self.young.len() + self.old.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_stays_bounded_and_keeps_what_is_used() {
        let mut cache = GenerationalCache::new(10);
        cache.insert(0, "kept");
        for key in 1..1_000 {
            cache.insert(key, "passing");
            assert_eq!(Some(&"kept"), cache.get(&0));
            assert!(cache.len() <= 20);
        }
        assert_eq!(None, cache.get(&1));
        let usage = cache.usage();
        assert_eq!((999, 1), (usage.hits, usage.misses));
        assert_eq!(cache.len(), usage.size);
    }

    #[test]
    fn what_is_put_again_is_there_once_and_as_it_was_last() {
        let mut cache = GenerationalCache::new(2);
        for (key, value) in [(1, "a"), (2, "b"), (3, "c"), (1, "d")] {
            cache.insert(key, value);
        }
        assert_eq!(3, cache.len());
        assert_eq!(Some(&"d"), cache.get(&1));
        cache.remove(&1);
        assert_eq!(None, cache.get(&1));
        assert_eq!((2, false), (cache.len(), cache.is_empty()));
    }

    #[test]
    fn what_is_removed_or_cleared_is_gone_from_both_generations() {
        for young in [false, true] {
            let mut cache = GenerationalCache::new(1);
            cache.insert("old", 1);
            cache.insert("young", 2);
            cache.remove(if young { &"young" } else { &"old" });
            assert_eq!((!young).then_some(&2), cache.get(&"young"));
            assert_eq!(young.then_some(&1), cache.get(&"old"));
            cache.clear();
            assert!(cache.is_empty());
            assert_eq!(
                (None, None),
                (cache.get(&"young").copied(), cache.get(&"old").copied())
            );
        }
    }
}
