//! The history of runs, and their sums by hour and day.
//!
//! Hours are kept for a month; then they are added to their day's sum and removed. A day is the sum of its kept hours and of what was
//! added to it, so the series always add up, whatever was removed meanwhile.

use candid::Principal;
use canister_common::cbor::Cbor;
use ic_stable_structures::StableBTreeMap;
use shared_types::econ::usage::{MAX_DAYS, MAX_HOURS, MAX_USAGE_RECORDS};
use shared_types::econ::{
    DAY_NS, HOUR_NS, Reservation, SeriesArgs, SeriesPage, SeriesPoint, SeriesStep, Settlement, UsageArgs,
    UsageEnvelope, UsagePage, UsageRecord, UsageTotals,
};
use shared_types::paging;

use crate::economy::Account;
use crate::memory::Memory;

/// Microcents of a cent.
const MICROCENTS: u128 = 1_000_000;

/// Old hours and days that one run removes at most: more than it adds.
const AGED_PER_RUN: usize = 4;

/// Runs and sums of all accounts.
pub struct History {
    pub(crate) runs: StableBTreeMap<(Principal, u64), Cbor<UsageRecord>, Memory>,
    /// By the hour's number since 1970.
    pub(crate) hours: StableBTreeMap<(Principal, u64), Cbor<UsageTotals>, Memory>,
    /// By the day's number since 1970: hours that are not kept any more.
    pub(crate) days: StableBTreeMap<(Principal, u64), Cbor<UsageTotals>, Memory>,
}

impl History {
    /// Opens what the memories hold.
    pub fn open(runs: Memory, hours: Memory, days: Memory) -> Self {
        Self {
            runs: StableBTreeMap::init(runs),
            hours: StableBTreeMap::init(hours),
            days: StableBTreeMap::init(days),
        }
    }

    /// An account's runs after a sequence number.
    pub fn runs(&self, account: Principal, after: u64) -> impl Iterator<Item = UsageRecord> {
        let from = (account, after.saturating_add(1));
        self.runs.range(from..=(account, u64::MAX)).map(|entry| entry.value().0)
    }

    /// Points of a series from `from_ns` on, in order.
    pub fn series(
        &self,
        account: Principal,
        step: SeriesStep,
        from_ns: u64,
        limit: usize,
    ) -> Vec<SeriesPoint> {
        let (length, per_hour) = match step {
            SeriesStep::Hour => (HOUR_NS, 1),
            SeriesStep::Day => (DAY_NS, DAY_NS / HOUR_NS),
        };
        let first = from_ns.div_ceil(length);
        let mut points: Vec<SeriesPoint> = Vec::new();
        if step == SeriesStep::Day {
            let days = self.days.range((account, first)..=(account, u64::MAX)).take(limit);
            points.extend(days.map(|entry| point(entry.key().1 * DAY_NS, entry.value().0)));
        }
        let hours = self.hours.range((account, first.saturating_mul(per_hour))..=(account, u64::MAX));
        let mut fresh = 0;
        for entry in hours {
            let start_ns = entry.key().1 / per_hour * length;
            match points.iter_mut().rfind(|point| point.start_ns == start_ns) {
                Some(point) => point.totals.merge(&entry.value().0),
                None if fresh == limit => break,
                None => {
                    fresh += 1;
                    points.push(point(start_ns, entry.value().0));
                }
            }
        }
        points.sort_by_key(|point| point.start_ns);
        points.truncate(limit);
        points
    }

    /// Enters a run; sums of days that are not kept any more.
    fn add(&mut self, account: Principal, record: &UsageRecord) -> UsageTotals {
        let hour = record.time_ns / HOUR_NS;
        let key = (account, hour);
        let known = self.hours.get(&key);
        let new = known.is_none();
        let mut totals = known.map(|totals| totals.0).unwrap_or_default();
        totals.add(record);
        self.hours.insert(key, Cbor(totals));
        self.runs.insert((account, record.sequence), Cbor(record.clone()));
        if new { self.age(account, hour) } else { UsageTotals::default() }
    }

    /// Moves hours that are too old into their days, and removes days that are; the sums of these.
    fn age(&mut self, account: Principal, hour: u64) -> UsageTotals {
        let oldest = (account, hour.saturating_sub(MAX_HOURS));
        let aged = self.hours.range((account, 0)..oldest).take(AGED_PER_RUN);
        let aged: Vec<_> = aged.map(|entry| (entry.key().1, entry.value().0)).collect();
        for (hour, totals) in aged {
            let day = (account, hour / (DAY_NS / HOUR_NS));
            let mut sum = self.days.get(&day).map(|sum| sum.0).unwrap_or_default();
            sum.merge(&totals);
            self.days.insert(day, Cbor(sum));
            self.hours.remove(&(account, hour));
        }
        let oldest = (account, (hour / (DAY_NS / HOUR_NS)).saturating_sub(MAX_DAYS));
        let gone = self.days.range((account, 0)..oldest).take(AGED_PER_RUN).map(|entry| *entry.key());
        let mut earlier = UsageTotals::default();
        for key in gone.collect::<Vec<_>>() {
            if let Some(Cbor(totals)) = self.days.remove(&key) {
                earlier.merge(&totals);
            }
        }
        earlier
    }
}

fn point(start_ns: u64, totals: UsageTotals) -> SeriesPoint {
    SeriesPoint { start_ns, totals }
}

/// Enters a run.
pub fn add_run(
    history: &mut History,
    account: &mut Account,
    reservation: &Reservation,
    envelope: UsageEnvelope,
    settlement: Settlement,
    now_ns: u64,
) {
    let meters = account.meters(reservation.period);
    let cost = meters.and_then(|meters| {
        let price = u128::from(meters.price_cents) * MICROCENTS;
        let share = price
            .checked_mul(u128::from(settlement.charged))?
            .checked_div(u128::from(meters.priced_tokens))?;
        u64::try_from(share).ok()
    });
    account.last_run += 1;
    let record = UsageRecord {
        sequence: account.last_run,
        time_ns: now_ns,
        period: reservation.period,
        agent: reservation.caller,
        reservation: reservation.id,
        envelope,
        charged_tokens: settlement.charged,
        cost_microcents: cost.unwrap_or(0),
    };
    account.totals.add(&record);
    account.earlier.merge(&history.add(reservation.account, &record));
    if account.kept_runs < MAX_USAGE_RECORDS {
        account.kept_runs += 1;
    } else {
        history.runs.remove(&(reservation.account, account.last_run - account.kept_runs));
    }
}

impl crate::economy::Economy {
    /// A page of an account's runs.
    pub fn usage_page(&self, account: Principal, args: &UsageArgs) -> UsagePage {
        let rest = self.usage.runs(account, args.after.unwrap_or(0));
        let (records, next) = paging::page(rest, args.limit, |record| record.sequence);
        UsagePage { records, next }
    }

    /// A page of an account's hourly or daily sums.
    pub fn series_page(&self, account: Principal, args: &SeriesArgs) -> SeriesPage {
        let from_ns = args.after_ns.map_or(0, |after| after.saturating_add(1));
        let points = self.usage.series(account, args.step, from_ns, paging::page_size(args.limit) + 1);
        let (points, next) = paging::page(points.into_iter(), args.limit, |point| point.start_ns);
        SeriesPage { points, next }
    }
}
