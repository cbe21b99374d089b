//! INV-E7: sums are the sums of their parts.

use std::collections::BTreeMap;

use proptest::prelude::*;
use shared_types::econ::usage::{ExportSubject, MAX_DAYS, MAX_HOURS};
use shared_types::econ::{
    DAY_NS, ExportArgs, ExportFormat, HOUR_NS, RateClass, Reservation, ReservationState, Resource,
    SeriesArgs, SeriesStep, Settlement, UsageArgs, UsageEnvelope, UsageTotals,
};

use crate::economy::{Account, Economy};
use crate::quotas_tests::{coordinator, economy, user};
use crate::{exports, usage};

/// Enters a run of the account at a time.
fn run(economy: &mut Economy, account: &mut Account, now_ns: u64, envelope: UsageEnvelope) {
    let reservation = Reservation {
        id: 7,
        account: user(),
        caller: coordinator(),
        key: "k".to_owned(),
        resource: Resource::Tokens(1),
        period: 1,
        expires_ns: 0,
        rate_class: RateClass::Standard,
        state: ReservationState::Open,
    };
    let charged = envelope.tokens();
    let settlement = Settlement { amount: charged, charged, excess: 0 };
    usage::add_run(&mut economy.usage, account, &reservation, envelope, settlement, now_ns);
}

fn series(economy: &Economy, step: SeriesStep, limit: u32) -> Vec<(u64, UsageTotals)> {
    let (mut points, mut after_ns) = (Vec::new(), None);
    loop {
        let page = economy.series_page(user(), &SeriesArgs { account: None, step, after_ns, limit });
        points.extend(page.points.into_iter().map(|point| (point.start_ns, point.totals)));
        after_ns = page.next;
        if after_ns.is_none() {
            return points;
        }
    }
}

fn sum<'a>(totals: impl Iterator<Item = &'a UsageTotals>) -> UsageTotals {
    totals.fold(UsageTotals::default(), |mut sum, part| {
        sum.merge(part);
        sum
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn sums_are_sums_of_their_parts(
        runs in prop::collection::vec((0u64..800, 0u64..500, 0u64..500, 0u64..1_000_000), 1..80),
        limit in 1u32..40,
    ) {
        let mut economy = economy();
        let mut account = economy.account(user());
        let mut now = 1_800_000_000_000_000_000;
        let mut days: BTreeMap<u64, UsageTotals> = BTreeMap::new();
        for (hours, tokens_in, tokens_out, instructions) in runs {
            now += hours * HOUR_NS;
            let envelope = UsageEnvelope { latency_ns: 5, tokens_in, tokens_out, instructions, cycles: 9 };
            run(&mut economy, &mut account, now, envelope);
            let mut record = economy.usage.runs(user(), account.last_run - 1).next().unwrap();
            prop_assert_eq!(record.cost_microcents, 2_900 * 1_000_000 * (tokens_in + tokens_out) / 100_000);
            record.envelope = envelope;
            days.entry(now / DAY_NS * DAY_NS).or_default().add(&record);
        }
        // Folded hours are still in their days; days that are gone, in the sums of what was earlier.
        let by_day = series(&economy, SeriesStep::Day, limit);
        let days: Vec<_> = days.into_iter().collect();
        let kept = days.len() - by_day.len();
        prop_assert_eq!(&by_day, &days[kept..]);
        prop_assert_eq!(sum(days[..kept].iter().map(|(_, totals)| totals)), account.earlier);
        prop_assert_eq!(sum(days.iter().map(|(_, totals)| totals)), account.totals);
        // Those of the last 400 days are there, and older ones only until the next runs.
        prop_assert!(days[..kept].iter().all(|(day, _)| day / DAY_NS + MAX_DAYS < now / DAY_NS));
        prop_assert!(by_day.len() as u64 <= MAX_DAYS + 80);
        // The hours that are kept are the end of the history.
        let by_hour = series(&economy, SeriesStep::Hour, limit);
        let first_kept = now / HOUR_NS - MAX_HOURS;
        for (day, totals) in &by_day {
            if day / HOUR_NS >= first_kept {
                let hours = by_hour.iter().filter(|(hour, _)| hour / DAY_NS * DAY_NS == *day);
                prop_assert_eq!(sum(hours.map(|(_, totals)| totals)), *totals);
            }
        }
        // The exported lines add up to the same.
        let (mut lines, mut after) = (String::new(), None);
        loop {
            let args = ExportArgs { account: None, subject: ExportSubject::Usage, format: ExportFormat::Csv, after, limit };
            let page = exports::page(&economy, user(), &args);
            lines.push_str(&page.text);
            after = page.next;
            if after.is_none() {
                break;
            }
        }
        let mut lines = lines.lines();
        let header: Vec<&str> = lines.next().unwrap().split(',').collect();
        let column = header.iter().position(|name| *name == "charged_tokens").unwrap();
        let exported: Vec<u64> = lines.map(|line| line.split(',').nth(column).unwrap().parse().unwrap()).collect();
        prop_assert_eq!(exported.len() as u64, account.totals.runs);
        prop_assert_eq!(exported.iter().sum::<u64>(), account.totals.charged_tokens);
    }
}

#[test]
fn the_history_has_a_bound_and_the_sums_go_on() {
    let mut economy = economy();
    let mut account = economy.account(user());
    account.kept_runs = shared_types::econ::usage::MAX_USAGE_RECORDS - 2;
    account.last_run = account.kept_runs;
    for minute in 0..5 {
        let envelope = UsageEnvelope { tokens_in: 1, ..UsageEnvelope::default() };
        run(&mut economy, &mut account, minute * 60_000_000_000, envelope);
    }
    assert_eq!(account.kept_runs, shared_types::econ::usage::MAX_USAGE_RECORDS);
    assert_eq!(account.totals.runs, 5);
    let page = economy.usage_page(user(), &UsageArgs { account: None, after: None, limit: 100 });
    assert_eq!(page.records.len(), 5);
    let args = ExportArgs {
        account: None,
        subject: ExportSubject::Usage,
        format: ExportFormat::Json,
        after: None,
        limit: 1,
    };
    let page = exports::page(&economy, user(), &args);
    let line: serde_json::Value = serde_json::from_str(&page.text).unwrap();
    assert_eq!(line["tokens_in"], 1);
    assert!(page.next.is_some());
}
