//! Lives: weir-tests, what a benchmark measured, beside what is meant to be.
//! Called by: the benchmarks, at their end.
//! May touch: standard output.
//! Never: turns a goal that was missed into a failure: machines differ, people judge. Hides what was not measured.

use serde::Serialize;

use super::{Figure, Samples};

/// Everything.
#[derive(Debug, Default, Serialize)]
pub struct Report {
    /// Whose time is measured.
    pub times_of: &'static str,
    /// Kernel, load and the like.
    pub machine: Vec<(String, String)>,
    /// Nanoseconds of CPU time, by job and contestant.
    pub times: Vec<Time>,
    /// Comparisons, with their goals.
    pub rows: Vec<Row>,
    /// What was not measured, and why; what else is to be known.
    pub notes: Vec<String>,
}

/// What one job takes with one contestant.
#[derive(Debug, Serialize)]
pub struct Time {
    /// What is done over and over.
    pub job: String,
    /// With whom.
    pub contestant: String,
    /// What it takes.
    pub nanoseconds: Figure,
}

/// One comparison.
#[derive(Debug, Serialize)]
pub struct Row {
    /// What is compared.
    pub what: String,
    /// With what.
    pub against: String,
    /// At most this is meant; none for a figure that is for information.
    pub goal: Option<f64>,
    /// How many times as much it takes.
    pub measured: Option<Figure>,
}

impl Row {
    fn verdict(&self) -> String {
        let (Some(goal), Some(measured)) = (self.goal, self.measured) else { return String::new() };
        if measured.median <= goal {
            return "yes".to_owned();
        }
        format!("NO, by {:.1} %", (measured.median / goal - 1.0) * 100.0)
    }
}

impl Report {
    /// Notes what everybody took at a job.
    pub fn times<Contestant: Ord + Copy>(
        &mut self,
        job: &str,
        samples: &Samples<Contestant>,
        name: impl Fn(Contestant) -> String,
    ) {
        for contestant in samples.contestants() {
            if let Some(nanoseconds) = samples.takes(contestant) {
                self.times.push(Time { job: job.to_owned(), contestant: name(contestant), nanoseconds });
            }
        }
    }

    /// Adds a comparison.
    pub fn row(&mut self, what: &str, against: &str, goal: Option<f64>, measured: Option<Figure>) {
        self.rows.push(Row { what: what.to_owned(), against: against.to_owned(), goal, measured });
    }

    /// Kernel, CPUs and load.
    pub fn note_machine(&mut self) {
        let read = |path| std::fs::read_to_string(path).unwrap_or_default().trim().to_owned();
        let cpus = std::thread::available_parallelism().map_or(0, usize::from);
        self.machine = vec![
            ("kernel".to_owned(), read("/proc/sys/kernel/osrelease")),
            ("CPUs".to_owned(), cpus.to_string()),
            ("load at the start".to_owned(), read("/proc/loadavg")),
        ];
    }

    /// Tables for people.
    pub fn print(&self) {
        for (what, value) in &self.machine {
            println!("{what}: {value}");
        }
        println!("\n{}, nanoseconds: the median over the loads, and the best and worst of them", self.times_of);
        let mut job = "";
        for time in &self.times {
            if job != time.job {
                println!("  {}", time.job);
                job = &time.job;
            }
            let Figure { median, low, high } = time.nanoseconds;
            println!("    {:<52} {median:>10.0}   {low:>9.0} to {high:.0}", time.contestant);
        }
        println!("\n  {:<50} {:<34} {:>8} {:>9} {:>15}  met", "", "against", "goal", "measured", "loads");
        for row in &self.rows {
            let goal = row.goal.map(ratio).unwrap_or_default();
            let (measured, range) = row.measured.map_or(("-".to_owned(), String::new()), |figure| {
                (ratio(figure.median), format!("{}-{}", ratio(figure.low), ratio(figure.high)))
            });
            println!("  {:<50} {:<34} {goal:>8} {measured:>9} {range:>15}  {}", row.what, row.against, row.verdict());
        }
        println!();
        self.notes.iter().for_each(|note| println!("{note}"));
    }
}

/// `1.234x`; what is far below one as a fraction: `1/15`.
fn ratio(value: f64) -> String {
    if value > 0.0 && value < 0.5 { format!("1/{:.1}", 1.0 / value) } else { format!("{value:.3}x") }
}
