//! Lives: weir-tests, what a benchmark measured, and how it compares.
//! Called by: the benchmarks, with their own kinds of contestants.
//! May touch: nothing.
//! Never: compares figures of different rounds: a machine that others use changes from one to the next.

use std::collections::BTreeMap;

/// Figures of one job.
#[derive(Debug)]
pub struct Samples<Contestant>(BTreeMap<Contestant, Vec<Sample>>);

impl<Contestant> Default for Samples<Contestant> {
    fn default() -> Self {
        Samples(BTreeMap::new())
    }
}

#[derive(Clone, Copy, Debug)]
struct Sample {
    load: usize,
    round: usize,
    nanoseconds: f64,
}

/// The median over the loads of each load's median, and the loads' range.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
pub struct Figure {
    /// The middle load.
    pub median: f64,
    /// The best load.
    pub low: f64,
    /// The worst load.
    pub high: f64,
}

impl<Contestant: Ord + Copy> Samples<Contestant> {
    /// Notes a turn.
    pub fn add(&mut self, contestant: Contestant, load: usize, round: usize, nanoseconds: f64) {
        self.0.entry(contestant).or_default().push(Sample { load, round, nanoseconds });
    }

    /// Everybody who had a turn.
    pub fn contestants(&self) -> impl Iterator<Item = Contestant> {
        self.0.keys().copied()
    }

    /// What one takes.
    #[must_use]
    pub fn takes(&self, contestant: Contestant) -> Option<Figure> {
        figure(self.of(contestant).map(|sample| (sample.load, sample.nanoseconds)))
    }

    /// What one takes more than `base`.
    #[must_use]
    pub fn adds(&self, contestant: Contestant, base: Contestant) -> Option<Figure> {
        figure(self.pairs(contestant, base).map(|(load, takes, base)| (load, takes - base)))
    }

    /// How many times as long one takes as `base`.
    #[must_use]
    pub fn ratio(&self, contestant: Contestant, base: Contestant) -> Option<Figure> {
        figure(self.pairs(contestant, base).map(|(load, takes, base)| (load, takes / base)))
    }

    /// What one adds to `base`, on top of what `floor` takes, as a multiple of that: the whole that cannot be measured in one piece.
    #[must_use]
    pub fn stacked(&self, contestant: Contestant, base: Contestant, floor: &Figure) -> Option<Figure> {
        Figure::over(Some(self.adds(contestant, base)?.on(floor.median)), Some(*floor))
    }

    fn of(&self, contestant: Contestant) -> impl Iterator<Item = Sample> {
        self.0.get(&contestant).into_iter().flatten().copied()
    }

    /// Load, and both figures of one round.
    fn pairs(&self, one: Contestant, other: Contestant) -> impl Iterator<Item = (usize, f64, f64)> {
        self.of(one).filter_map(move |sample| {
            let same = self.of(other).find(|other| other.round == sample.round)?;
            Some((sample.load, sample.nanoseconds, same.nanoseconds))
        })
    }
}

impl Figure {
    /// What is added, on top of `floor`.
    #[must_use]
    pub fn on(self, floor: f64) -> Figure {
        Figure { median: self.median + floor, low: self.low + floor, high: self.high + floor }
    }

    /// The ratio of two figures that were measured apart.
    #[must_use]
    pub fn over(figure: Option<Figure>, base: Option<Figure>) -> Option<Figure> {
        let (figure, base) = (figure?, base?.median);
        Some(Figure { median: figure.median / base, low: figure.low / base, high: figure.high / base })
    }
}

fn figure(values: impl Iterator<Item = (usize, f64)>) -> Option<Figure> {
    let mut loads: BTreeMap<usize, Vec<f64>> = BTreeMap::new();
    values.for_each(|(load, value)| loads.entry(load).or_default().push(value));
    let mut medians: Vec<f64> = loads.into_values().filter_map(|mut values| median(&mut values)).collect();
    let median = median(&mut medians)?;
    Some(Figure { median, low: *medians.first()?, high: *medians.last()? })
}

/// The middle one, or the mean of both. Sorts.
fn median(values: &mut [f64]) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let upper = *values.get(values.len() / 2)?;
    let lower = *values.get((values.len() - 1) / 2)?;
    Some(f64::midpoint(lower, upper))
}
