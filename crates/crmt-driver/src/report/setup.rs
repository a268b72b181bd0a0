//! The end of the page: how each run was configured, how to repeat it, and what the words mean.
//! Knows no configuration key: it prints the resolved text.
use super::html::{escape, percent, section};
use super::run_record::RunRecord;

/// The section, and the glossary.
pub fn setup(runs: &[RunRecord]) -> String {
    let content: String = runs.iter().map(run).collect();
    let words: String = GLOSSARY
        .iter()
        .map(|(word, text)| format!("<div><dt>{word}</dt><dd>{text}</dd></div>"))
        .collect();
    let glossary = section(
        "Words",
        "As used on this page.",
        &format!("<dl class=\"glossary\">{words}</dl>\n"),
    );
    let setup = section(
        "Configuration and how to repeat it",
        "Save a configuration below as <code>run.toml</code> and run <code>crmt-driver train --config run.toml</code>. The same \
         configuration, seed and version give the same weights, bit for bit, on a CPU, whatever the number of threads: \
         compare their SHA-256.",
        &content,
    );
    format!("{setup}{glossary}")
}

fn run(run: &RunRecord) -> String {
    let s = &run.summary;
    let stages: Vec<String> = s
        .stages
        .iter()
        .map(|(name, t)| format!("{} {}", escape(name), duration(*t)))
        .collect();
    let stages = if stages.is_empty() {
        String::new()
    } else {
        format!(" ({})", stages.join(", "))
    };
    let method = match s.method.as_str() {
        "" => String::new(),
        name => format!("<div><dt>method</dt><dd>{}</dd></div>", escape(name)),
    };
    let weights = if s.weights.is_empty() {
        "not recorded".into()
    } else {
        escape(&s.weights)
    };
    let config = if run.config.trim().is_empty() {
        "<p>No configuration was recorded.</p>".into()
    } else {
        format!(
            "<details><summary>Resolved configuration</summary><pre>{}</pre></details>",
            escape(run.config.trim_end())
        )
    };
    format!(
        "<h3>{}</h3>\n<dl class=\"facts\">{}<div><dt>seed</dt><dd>{}</dd></div>\
         <div><dt>clean accuracy</dt><dd>{} %</dd></div><div><dt>time</dt><dd>{}{stages}</dd></div>\
         <div><dt>weights, SHA-256</dt><dd><code>{weights}</code></dd></div></dl>\n{config}\n",
        escape(&run.title),
        method,
        s.seed,
        percent(s.accuracy.clean),
        duration(s.seconds)
    )
}

fn duration(seconds: f64) -> String {
    match seconds {
        s if !s.is_finite() || s < 0.0 => "–".into(),
        s if s < 60.0 => format!("{s:.1} s"),
        s if s < 3600.0 => format!("{:.0} min {:.0} s", (s / 60.0).floor(), (s % 60.0).floor()),
        s => format!(
            "{:.0} h {:.0} min",
            (s / 3600.0).floor(),
            (s % 3600.0 / 60.0).floor()
        ),
    }
}

const GLOSSARY: [(&str, &str); 16] = [
    ("clean", "accuracy without an attacker."),
    (
        "strongest attack",
        "a sample counts as broken when any of the attacks broke it at this or a smaller budget.",
    ),
    (
        "certified",
        "a theorem, with proved constants, covers every perturbation within the radius; there is nothing left to attack.",
    ),
    (
        "certified with confidence",
        "the same of the smoothed network, from random draws: each certificate is right with the confidence beside it.",
    ),
    (
        "estimated",
        "the same formula with constants measured on samples; an attack may succeed inside, hence it guarantees nothing.",
    ),
    (
        "budget ε",
        "how far an attacker may move an input, in the declared units of the data (for images usually pixels from 0 to 1).",
    ),
    (
        "ℓ<sub>2</sub>, ℓ<sub>∞</sub>",
        "distance as the root of the summed squares, or as the largest single change.",
    ),
    (
        "joint",
        "one ℓ<sub>2</sub> budget over all modalities together, spent as the attacker likes.",
    ),
    (
        "radius",
        "the largest budget under which the claim holds for a sample; 0 when it is misclassified.",
    ),
    (
        "violation",
        "an attack that succeeded inside a certified radius; it cannot happen unless the program is wrong.",
    ),
    (
        "vulnerability share",
        "the part of the squared worst-case joint budget that goes to a modality.",
    ),
    (
        "preference share",
        "a modality's part of what speaks for the true class: of the Shapley values of the margin, where absent means at its baseline.",
    ),
    (
        "indicator η",
        "how many times as much a move of this modality changes the margin as the same move of the others does on average; above 1 it is the more vulnerable one.",
    ),
    (
        "margin ζ",
        "distance of a modality's features to the nearest boundary of its own head; negative where that head is wrong.",
    ),
    (
        "step 1, step 2",
        "CRMT trains with uni-modal margins first; then, with everything else frozen, it re-weights the classes of each modality to raise the bound.",
    ),
    (
        "splits",
        "train to learn, selection to choose the epoch and the second step, report for this page only.",
    ),
];
