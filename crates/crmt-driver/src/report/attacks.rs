//! Attack by attack: what each left standing, and how near the nearest adversarials are.
//! Knows no attack, only its results.
use super::html::{budget, count, distance, escape, group, percent, section, table};
use super::run_record::RunRecord;
use super::sandwich::threat_title;
use crate::sandwich::{Threat, budgets, same_budget};

/// The section; runs that were attacked in one way only, and whose nearest adversarials are not
/// known, are left out.
pub fn attacks(runs: &[RunRecord]) -> String {
    section(
        "Attack by attack",
        "Accuracy in % under each attack alone; <b>strongest</b> counts a sample as broken when any of them broke it, also \
         at a smaller budget. Where one attack leaves far fewer standing than another that should be as strong, look into \
         why. The <b>nearest</b> adversarial of a sample is the least change any attack found: an upper bound of what is \
         needed, and no more than a budget at which it fell (≤) where no attack looked for the nearest. Its <b>split</b> says on which modality attackers spend their squared budget.",
        &(accuracies(runs) + &nearest(runs)),
    )
}

fn accuracies(runs: &[RunRecord]) -> String {
    let budgets = budgets(
        runs.iter()
            .flat_map(|run| run.summary.attacks.iter().map(|a| a.eps)),
    );
    let bodies: String = runs.iter().map(|run| of_run(run, &budgets)).collect();
    if bodies.is_empty() {
        return bodies;
    }
    let head: String = budgets
        .iter()
        .map(|e| format!("<th scope=\"col\">{}</th>", budget(*e)))
        .collect();
    table(
        "",
        "",
        &format!("<th scope=\"col\">% at ε =</th>{head}"),
        &bodies,
    )
}

fn of_run(run: &RunRecord, budgets: &[f64]) -> String {
    let mut threats: Vec<Threat> = vec![];
    for attack in &run.summary.attacks {
        let threat = Threat {
            name: attack.threat.clone(),
            norm: attack.norm.clone(),
        };
        if !threats.contains(&threat) {
            threats.push(threat);
        }
    }
    let body = |threat: &Threat| {
        let own = || {
            run.summary
                .attacks
                .iter()
                .filter(|a| a.threat == threat.name && a.norm == threat.norm)
        };
        let mut names: Vec<&str> = own().map(|a| a.name.as_str()).collect();
        let mut seen = vec![];
        names.retain(|name| {
            !seen.contains(name) && {
                seen.push(*name);
                true
            }
        });
        let rows = names.iter().map(|name| {
            let cell = |eps: &f64| match own().find(|a| a.name == *name && same_budget(a.eps, *eps))
            {
                Some(a) => format!("<td>{}</td>", percent(a.accuracy)),
                None => "<td>–</td>".into(),
            };
            format!(
                "<tr><th scope=\"row\">{}</th>{}</tr>",
                escape(name),
                budgets.iter().map(cell).collect::<String>()
            )
        });
        group(
            &format!("{}: {}", escape(&run.title), threat_title(threat)),
            budgets.len() + 1,
            &rows.collect::<String>(),
        )
    };
    threats.iter().map(body).collect()
}

fn nearest(runs: &[RunRecord]) -> String {
    let row = |n: &crate::record::NearestResult| {
        let threat = Threat {
            name: n.threat.clone(),
            norm: n.norm.clone(),
        };
        let split: Vec<String> = n
            .split
            .iter()
            .map(|(name, share)| format!("{} {} %", escape(name), percent(*share)))
            .collect();
        format!(
            "<tr><th scope=\"row\">{}</th><td>{} of {}</td><td>{}</td><td>{}</td></tr>",
            threat_title(&threat),
            count(n.found),
            count(n.samples),
            n.median.map_or_else(
                || "–".into(),
                |d| format!("{}{}", if n.looked { "" } else { "≤ " }, distance(d))
            ),
            if split.is_empty() {
                "–".into()
            } else {
                split.join(", ")
            }
        )
    };
    let known = runs.iter().filter(|run| !run.summary.nearest.is_empty());
    let bodies: String = known
        .map(|run| {
            group(
                &escape(&run.title),
                4,
                &run.summary.nearest.iter().map(row).collect::<String>(),
            )
        })
        .collect();
    if bodies.is_empty() {
        return bodies;
    }
    let head = ["nearest adversarial", "found", "median distance", "split"];
    table(
        "",
        "",
        &head
            .map(|name| format!("<th scope=\"col\">{name}</th>"))
            .concat(),
        &bodies,
    )
}
