//! Noise levels, one per modality of a data set, from settings by name.
//! Does not know what the noise is for.
use anyhow::{Result, bail};
use crmt_core::PerModality;
use crmt_data::DataSet;
use std::collections::BTreeMap;

/// `--smooth`'s value: one number for all modalities, or NAME=SIGMA for each of `names`.
pub fn parse(text: &str, names: &[String]) -> Result<(Option<f64>, BTreeMap<String, f64>)> {
    let number = |text: &str| text.trim().parse::<f64>().ok();
    if let Some(all) = number(text) {
        return Ok((Some(all), BTreeMap::new()));
    }
    let mut named = BTreeMap::new();
    for part in text.split(',') {
        let pair = part
            .split_once('=')
            .and_then(|(name, sigma)| Some((name.trim().to_owned(), number(sigma)?)));
        let Some((name, sigma)) = pair else {
            let each: Vec<_> = names.iter().map(|name| format!("{name}=0.25")).collect();
            bail!(
                "--smooth {text}: expected one number, or one for each modality: {}",
                each.join(",")
            );
        };
        if !names.contains(&name) {
            bail!(
                "--smooth {text}: no modality `{name}`; this run has {}",
                names.join(", ")
            );
        }
        if named.insert(name.clone(), sigma).is_some() {
            bail!("--smooth {text}: {name} is named twice");
        }
    }
    if let Some(name) = names.iter().find(|name| !named.contains_key(*name)) {
        bail!(
            "--smooth {text}: no sigma for {name}; 0 leaves a modality as it is, and certifies nothing of it"
        );
    }
    Ok((None, named))
}

/// `named` where it names a modality, `all` elsewhere. `key`: the table of names in the settings.
pub fn sigmas(
    key: &str,
    all: f64,
    named: &BTreeMap<String, f64>,
    data: &DataSet,
) -> Result<PerModality<f64>> {
    if let Some(name) = named
        .keys()
        .find(|name| data.modalities.iter().all(|m| m.name != **name))
    {
        let known: Vec<_> = data.modalities.iter().map(|m| m.name.as_str()).collect();
        bail!(
            "{key}.{name}: the data set `{}` has the modalities {}",
            data.name,
            known.join(", ")
        );
    }
    Ok(data
        .modalities
        .map(|m| named.get(&m.name).copied().unwrap_or(all)))
}
