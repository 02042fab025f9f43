//! All that was asked for, one after another (edge). What fails is noted, its product started anew,
//! and the rest measured; after each row all rows so far are handed over.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};

use super::herald::{Herald, Kubernetes};
use super::keepalived::Keepalived;
use super::plan::{self, Part, Stage, stages};
use super::product::{Name, Product};
use super::row::Row;
use super::{Report, What, event::Profile, measure, steady};
use crate::clock;
use crate::cluster::whole::Plan;
use crate::lab::addresses::NODES;
use crate::probe::Outcome;
use crate::scenario::Scenario;

/// What is under way.
pub struct Series<'a> {
    what: &'a What,
    settle: Duration,
    report: &'a mut Report,
    output: &'a mut File,
    kubernetes: Option<Kubernetes>,
    begun: Instant,
    /// The time that everything was expected to take, and of it what is over.
    planned: Duration,
    planned_of_done: Duration,
    rows: usize,
}

impl<'a> Series<'a> {
    /// Nothing is measured yet.
    pub fn new(what: &'a What, report: &'a mut Report, output: &'a mut File) -> Self {
        let settle = Duration::from_secs(what.settle.into());
        let stages = stages(what);
        Self {
            what,
            settle,
            report,
            output,
            kubernetes: None,
            begun: clock::now(),
            planned: stages.iter().map(|stage| stage.planned(what.runs, settle)).sum(),
            planned_of_done: Duration::ZERO,
            rows: stages.iter().map(|stage| stage.parts().len()).sum(),
        }
    }

    /// Measures everything.
    ///
    /// # Errors
    ///
    /// If what was measured cannot be handed over; everything else is noted in the report.
    pub fn measure(mut self, scenario: &mut Scenario) -> anyhow::Result<()> {
        let plural = if self.rows == 1 { "" } else { "s" };
        println!("{} row{plural}, about {}", self.rows, minutes(self.planned));
        for stage in stages(self.what) {
            // Whatever becomes of it, this is over then.
            let over = self.planned_of_done + stage.planned(self.what.runs, self.settle);
            if let Err(error) = self.stage(&stage, scenario) {
                self.note(&error, scenario);
            }
            self.planned_of_done = over;
            self.report.hand_over(self.output)?;
        }
        Ok(())
    }

    fn stage(&mut self, stage: &Stage, scenario: &mut Scenario) -> anyhow::Result<()> {
        let Stage::Rows { product, profile, vips, .. } = stage else {
            println!("{} a new Service, and an idle speaker", self.left());
            self.report.steady = Some(steady::measure(scenario, self.what.runs)?);
            return Ok(());
        };
        self.product(*product, *profile, *vips, stage, scenario)
            .with_context(|| format!("{product} {profile}, {vips} VIPs"))
    }

    fn product(
        &mut self,
        product: Name,
        profile: Profile,
        vips: u16,
        stage: &Stage,
        scenario: &mut Scenario,
    ) -> anyhow::Result<()> {
        match product {
            Name::Keepalived => {
                let mut running = Keepalived::start(scenario, profile, vips)?;
                let measured = self.rows(&mut running, stage);
                measured.and(running.stop())
            }
            Name::Herald => {
                let mut running = Herald::start(scenario, profile, vips)?;
                let measured = self.rows(&mut running, stage);
                measured.and(running.stop())
            }
            Name::HeraldLease => {
                let mut kubernetes = match self.kubernetes.take() {
                    Some(kubernetes) => kubernetes,
                    None => self.start_kubernetes(scenario)?,
                };
                let mut running = Herald::start_by_leases(scenario, &mut kubernetes, vips)?;
                let measured = self.rows(&mut running, stage);
                let stopped = running.stop();
                if measured.is_err() {
                    eprintln!("{}", kubernetes.logs());
                }
                self.kubernetes = Some(kubernetes);
                measured.and(stopped)
            }
        }
    }

    fn start_kubernetes(&self, scenario: &Scenario) -> anyhow::Result<Kubernetes> {
        println!("{} starting etcd, the API server and three nodes", self.left());
        let directory = |path: &'a Option<PathBuf>| -> anyhow::Result<&'a Path> {
            path.as_deref().context("herald-lease needs --kubernetes and --manifests")
        };
        let What { kubernetes, manifests, .. } = self.what;
        let plan = Plan::private(directory(kubernetes)?, directory(manifests)?, NODES)?;
        Kubernetes::start(&scenario.lab, &plan)
    }

    /// A row that fails is noted, and the product started anew for the next.
    fn rows(&mut self, product: &mut impl Product, stage: &Stage) -> anyhow::Result<()> {
        // It has been started.
        self.planned_of_done += stage.overhead(self.what.runs);
        let mut failed = Vec::new();
        for part in &stage.parts() {
            let over = self.planned_of_done + part.planned(self.what.runs, self.settle);
            if let Err(error) = self.row(product, part) {
                eprintln!("{part}: {error:#}");
                failed.push(format!("{}: {error:#}", part.event));
                product.reset().context("cannot start it anew after a failure")?;
            }
            self.planned_of_done = over;
            self.report.hand_over(self.output)?;
        }
        ensure!(failed.is_empty(), "{}", failed.join("; "));
        Ok(())
    }

    fn row(&mut self, product: &mut impl Product, part: &Part) -> anyhow::Result<()> {
        let runs = self.what.runs;
        println!("{} {part}", self.left());
        let tell = |run, outcome: &Outcome| {
            let (outage, lost) = (outcome.outage().as_millis(), outcome.lost());
            println!("  run {run} of {runs}: {outage} ms without service, {lost} probes lost");
        };
        let samples = measure::runs(product, part.event, runs, self.settle, tell)?;
        let row = Row::of(part, &samples);
        println!("  {row}");
        self.report.rows.push(row);
        Ok(())
    }

    fn note(&mut self, error: &anyhow::Error, scenario: &Scenario) {
        eprintln!("{}\nfailed: {error:#}", scenario.logs());
        self.report.failures.push(format!("{error:#}"));
    }

    fn left(&self) -> String {
        let row = self.report.rows.len() + 1;
        let left = plan::left(self.planned, self.planned_of_done, self.begun.elapsed());
        format!("[{} of {}, {} left]", row.min(self.rows), self.rows, minutes(left))
    }
}

fn minutes(time: Duration) -> String {
    match time.as_secs().div_ceil(60) {
        1 => "1 minute".to_owned(),
        minutes => format!("{minutes} minutes"),
    }
}
