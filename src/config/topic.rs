//! `[topics."NAME"]`: what is said of single topics.

use std::collections::BTreeMap;
use std::str::FromStr;

use super::value::{Section, suggest};
use crate::error::{Error, Result};

/// What happens with a message that can't be delivered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnPoison {
    /// It becomes a dead letter, and later messages of its key wait behind it.
    #[default]
    Park,
    /// It becomes a dead letter, and later messages of its key go on.
    Pass,
    /// The shard stops until a person has looked.
    Stop,
}

/// What is said of one topic.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Topic {
    /// What happens with a message that can't be delivered.
    pub on_poison: OnPoison,
}

impl Topic {
    pub(super) fn build_all(sections: &BTreeMap<String, Section>) -> Result<BTreeMap<String, Self>> {
        let build = |section: &Section| Ok(Topic { on_poison: section.parsed("on_poison")? });
        sections.iter().map(|(name, section)| Ok((name.clone(), build(section)?))).collect()
    }
}

impl FromStr for OnPoison {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "park" => Ok(OnPoison::Park),
            "pass" => Ok(OnPoison::Pass),
            "stop" => Ok(OnPoison::Stop),
            _ => {
                let known = suggest(text, ["park", "pass", "stop"].into_iter());
                Err(Error::invalid("parse on_poison", format!("{text:?} is no policy: {known}")))
            }
        }
    }
}
