//! Tiers: what a subscription costs and what it gives, as data.

use candid::CandidType;
use serde::{Deserialize, Serialize};

use super::DAY_NS;
use crate::field::FieldError;

/// Longest name of a tier in bytes.
pub const MAX_TIER_NAME_BYTES: usize = 32;

/// Most versions of tiers that are kept, those in force and those announced.
pub const MAX_TIER_VERSIONS: usize = 256;

/// Highest price of a period in cents: with [`MAX_TOKENS`] it keeps every product of the rules far from overflow.
pub const MAX_PRICE_CENTS: u64 = 100_000_000;

/// Most tokens of a period.
pub const MAX_TOKENS: u64 = 1_000_000_000_000;

/// How urgently an account's work is treated, and how often it may call.
#[derive(CandidType, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RateClass {
    /// The slowest class.
    Standard,
    /// Before Standard.
    Priority,
    /// Before Priority.
    Premium,
}

/// What a tier costs and gives. A billing period keeps the terms that it began with.
#[derive(CandidType, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct Terms {
    /// Name of the tier: 1 to [`MAX_TIER_NAME_BYTES`] bytes.
    pub tier: String,
    /// Price of a period.
    pub price_cents: u64,
    /// Most agents that live at the same time.
    pub max_agents: u32,
    /// Agents that may be created in a period.
    pub creations: u32,
    /// Tokens of a period.
    pub tokens: u64,
    /// Tokens that runs under way may go beyond `tokens`, when they turn out longer than what was reserved for them.
    pub overdraft_tokens: u64,
    /// Rate class.
    pub rate_class: RateClass,
    /// Length of a period in days: 1 to 366.
    pub period_days: u32,
}

impl Terms {
    /// Length of a period.
    pub fn period_ns(&self) -> u64 {
        u64::from(self.period_days) * DAY_NS
    }

    /// Checks the rules for the figures.
    ///
    /// # Errors
    /// Names the first field that breaks one.
    pub fn validate(&self) -> Result<(), FieldError> {
        FieldError::check_text("tier", &self.tier, MAX_TIER_NAME_BYTES)?;
        let within = |field: &str, value: u64, least: u64, most: u64| {
            if (least..=most).contains(&value) {
                Ok(())
            } else {
                Err(FieldError::new(field, format!("is {value}, must be {least} to {most}")))
            }
        };
        within("price_cents", self.price_cents, 1, MAX_PRICE_CENTS)?;
        within("max_agents", u64::from(self.max_agents), 1, 10_000)?;
        within("creations", u64::from(self.creations), 1, 100_000)?;
        within("tokens", self.tokens, 1, MAX_TOKENS)?;
        within("overdraft_tokens", self.overdraft_tokens, 0, self.tokens)?;
        within("period_days", u64::from(self.period_days), 1, 366)
    }
}

/// A version of a tier, and since when it is or from when it will be in force.
#[derive(CandidType, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct TierVersion {
    /// What holds.
    pub terms: Terms,
    /// From when new periods get it.
    pub effective_ns: u64,
}

/// The tiers that OHMS begins with: Basic, Pro and Enterprise.
pub fn initial() -> Vec<Terms> {
    let tier = |tier: &str, price_cents, max_agents, creations, tokens: u64, rate_class| Terms {
        tier: tier.to_owned(),
        price_cents,
        max_agents,
        creations,
        tokens,
        overdraft_tokens: tokens / 100,
        rate_class,
        period_days: 30,
    };
    vec![
        tier("Basic", 2_900, 5, 10, 100_000, RateClass::Standard),
        tier("Pro", 9_900, 25, 50, 500_000, RateClass::Priority),
        tier("Enterprise", 29_900, 100, 200, 2_000_000, RateClass::Premium),
    ]
}

/// The version of `tier` in force at `now_ns`: of those that have begun, the one that began last.
pub fn in_force<'a>(versions: &'a [TierVersion], tier: &str, now_ns: u64) -> Option<&'a Terms> {
    let begun =
        versions.iter().filter(|version| version.terms.tier == tier && version.effective_ns <= now_ns);
    begun.max_by_key(|version| version.effective_ns).map(|version| &version.terms)
}

/// Enters an announced version. Versions that another has replaced by `now_ns` are dropped, an announcement for the same moment is
/// replaced.
///
/// # Errors
/// Names the field: figures out of bounds, a version too soon, or too many of them.
pub fn announce(
    versions: &mut Vec<TierVersion>,
    version: TierVersion,
    notice_ns: u64,
    now_ns: u64,
) -> Result<(), FieldError> {
    version
        .terms
        .validate()
        .map_err(|error| FieldError::new(format!("terms.{}", error.field), error.reason))?;
    let earliest = now_ns.saturating_add(notice_ns);
    if version.effective_ns < earliest {
        return Err(FieldError::new(
            "effective_ns",
            format!("is {}, the notice period ends at {earliest}", version.effective_ns),
        ));
    }
    let replaced = |old: &TierVersion| {
        let same = old.terms.tier == version.terms.tier && old.effective_ns == version.effective_ns;
        same || old.effective_ns <= now_ns && in_force(versions, &old.terms.tier, now_ns) != Some(&old.terms)
    };
    let kept: Vec<TierVersion> = versions.iter().filter(|old| !replaced(old)).cloned().collect();
    *versions = kept;
    if versions.len() >= MAX_TIER_VERSIONS {
        return Err(FieldError::new("terms", format!("{MAX_TIER_VERSIONS} versions are kept, no more fit")));
    }
    versions.push(version);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn versions() -> Vec<TierVersion> {
        initial().into_iter().map(|terms| TierVersion { terms, effective_ns: 0 }).collect()
    }

    #[test]
    fn the_tiers_have_the_figures_of_the_product() {
        let figures: Vec<_> = initial()
            .into_iter()
            .map(|t| (t.tier, t.price_cents, t.max_agents, t.creations, t.tokens, t.rate_class))
            .collect();
        assert_eq!(
            figures,
            [
                ("Basic".to_owned(), 2_900, 5, 10, 100_000, RateClass::Standard),
                ("Pro".to_owned(), 9_900, 25, 50, 500_000, RateClass::Priority),
                ("Enterprise".to_owned(), 29_900, 100, 200, 2_000_000, RateClass::Premium),
            ]
        );
        assert!(initial().iter().all(|terms| terms.validate().is_ok()));
    }

    #[test]
    fn a_change_waits_for_its_notice() {
        let mut versions = versions();
        let dearer = Terms { price_cents: 3_900, ..initial()[0].clone() };
        let soon = TierVersion { terms: dearer.clone(), effective_ns: 40 };
        let refused = announce(&mut versions, soon, 31, 10).unwrap_err();
        assert_eq!(refused.field, "effective_ns");
        let later = TierVersion { terms: dearer.clone(), effective_ns: 41 };
        announce(&mut versions, later, 31, 10).unwrap();
        assert_eq!(in_force(&versions, "Basic", 40).unwrap().price_cents, 2_900);
        assert_eq!(in_force(&versions, "Basic", 41).unwrap().price_cents, 3_900);
        assert!(in_force(&versions, "Gold", 41).is_none());
        // The version that was replaced goes when the next one is announced.
        announce(&mut versions, TierVersion { terms: initial()[0].clone(), effective_ns: 90 }, 31, 50)
            .unwrap();
        assert_eq!(versions.len(), 4);
        let free = Terms { price_cents: 0, ..dearer };
        let refused =
            announce(&mut versions, TierVersion { terms: free, effective_ns: 90 }, 31, 50).unwrap_err();
        assert_eq!(refused.field, "terms.price_cents");
    }
}
