//! A run, or several compared, as one self-contained HTML page: inline CSS and SVG, no script, no
//! network, no clock. Knows only what a run left behind ([`crate::record`]): no model, no data set,
//! no file.
mod attacks;
mod bars;
mod colour;
mod confusion;
mod corruptions;
mod diagnosis;
mod falsification;
mod families;
mod figures;
mod font;
mod header;
mod html;
mod modalities;
mod pictures;
mod plot;
mod raster;
mod run_record;
mod samples;
mod sandwich;
mod setup;
mod smoothing;
#[cfg(test)]
mod tests;
mod training;

pub use figures::{Figure, is_ours};
pub use header::comparable;
pub use html::distance;
pub use run_record::RunRecord;

use figures::Gallery;

/// Why there is no report.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReportError {
    /// The list of runs was empty.
    NoRuns,
}

impl std::fmt::Display for ReportError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::NoRuns => {
                f.write_str("a report needs at least one run; give the directory of a finished run")
            }
        }
    }
}

impl std::error::Error for ReportError {}

/// The page, as HTML. The same records give the same bytes.
///
/// # Errors
/// [`ReportError::NoRuns`] when `runs` is empty; whatever is missing inside a run only leaves its
/// section out.
pub fn render(runs: &[RunRecord]) -> Result<String, ReportError> {
    Ok(page(runs)?.0)
}

/// The charts of the page as files that stand alone.
///
/// # Errors
/// As [`render`].
pub fn figures(runs: &[RunRecord]) -> Result<Vec<Figure>, ReportError> {
    Ok(page(runs)?.1.figures())
}

fn page(runs: &[RunRecord]) -> Result<(String, Gallery), ReportError> {
    let first = runs.first().ok_or(ReportError::NoRuns)?;
    let names: Vec<_> = runs.iter().map(|run| html::escape(&run.title)).collect();
    let title = format!(
        "{} on {}",
        names.join(" / "),
        html::escape(&first.summary.data)
    );
    let style = include_str!("style.css");
    let gallery = Gallery::default();
    let sections = [
        sandwich::tables(runs),
        sandwich::curves(runs, &gallery),
        attacks::attacks(runs),
        pictures::pictures(runs),
        falsification::falsification(runs),
        smoothing::smoothing(runs, &gallery),
        modalities::modalities(runs),
        diagnosis::diagnosis(runs, &gallery),
        corruptions::corruptions(runs, &gallery),
        training::training(runs, &gallery),
        confusion::confusion(runs),
        samples::samples(runs),
        setup::setup(runs),
    ];
    let html = format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta name=\"color-scheme\" content=\"light dark\">\n<title>{title}</title>\n<style>\n{style}</style>\n</head>\n\
         <body>\n<main>\n{}{}</main>\n</body>\n</html>\n",
        header::header(runs),
        sections.concat(),
    );
    Ok((html, gallery))
}
