//! One figure: what was measured in several rounds, what was to be reached, and the reference.

/// What was to be reached.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Target {
    AtMost(f64),
    AtLeast(f64),
    /// Told, not judged.
    None,
}

/// Measurements of one thing, in one unit.
#[derive(Clone, Debug, Default)]
pub struct Series(pub Vec<f64>);

impl Series {
    pub fn median(&self) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        let middle = sorted.len() / 2;
        match sorted.len() {
            0 => f64::NAN,
            count if count % 2 == 1 => sorted[middle],
            _ => (sorted[middle - 1] + sorted[middle]) / 2.0,
        }
    }

    pub fn least(&self) -> f64 {
        self.0.iter().copied().fold(f64::INFINITY, f64::min)
    }

    pub fn most(&self) -> f64 {
        self.0.iter().copied().fold(f64::NEG_INFINITY, f64::max)
    }
}

pub struct Figure {
    pub title: String,
    pub unit: &'static str,
    pub target: Target,
    pub series: Series,
    /// What was measured beside, and what it is.
    pub reference: Option<(String, Series)>,
    pub notes: Vec<String>,
    /// Why there is no figure.
    pub missing: Option<String>,
    /// Why the target isn't reached where it isn't; known from looking, so it stands in the code.
    pub reason: Option<&'static str>,
}

impl Figure {
    pub fn new(title: impl Into<String>, unit: &'static str, target: Target) -> Self {
        Self {
            title: title.into(),
            unit,
            target,
            series: Series::default(),
            reference: None,
            notes: Vec::new(),
            missing: None,
            reason: None,
        }
    }

    /// Says why the target isn't reached, for machines where it isn't.
    pub fn because(self, reason: &'static str) -> Self {
        Self {
            reason: Some(reason),
            ..self
        }
    }

    pub fn missing(title: impl Into<String>, why: String) -> Self {
        Self {
            missing: Some(why),
            ..Self::new(title, "", Target::None)
        }
    }

    pub fn note(&mut self, text: impl Into<String>) {
        self.notes.push(text.into());
    }

    /// `None` where there is nothing to judge.
    pub fn reached(&self) -> Option<bool> {
        if self.missing.is_some() || self.series.0.is_empty() {
            return None;
        }
        match self.target {
            Target::AtMost(limit) => Some(self.series.median() <= limit),
            Target::AtLeast(limit) => Some(self.series.median() >= limit),
            Target::None => None,
        }
    }

    /// Boira's median over the reference's.
    pub fn ratio(&self) -> Option<f64> {
        let (_, reference) = self.reference.as_ref()?;
        Some(self.series.median() / reference.median()).filter(|ratio| ratio.is_finite())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_judges_and_not_the_mean() {
        let mut figure = Figure::new("boot", "ms", Target::AtMost(10.0));
        assert_eq!(figure.reached(), None);
        figure.series = Series(vec![9.0, 100.0, 8.0]);
        assert_eq!(
            (figure.series.median(), figure.reached()),
            (9.0, Some(true))
        );
        figure.target = Target::AtLeast(10.0);
        assert_eq!(figure.reached(), Some(false));
        figure.series.0.push(13.0);
        assert_eq!(
            (figure.series.median(), figure.reached()),
            (11.0, Some(true))
        );
        figure.reference = Some(("by hand".into(), Series(vec![22.0])));
        assert_eq!(figure.ratio(), Some(0.5));
    }
}
