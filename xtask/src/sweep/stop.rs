//! The wish to stop, whoever has it: a signal to this program, or a failed run. Ends nothing
//! itself.
use anyhow::{Context, Result};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

#[cfg(unix)]
const SIGNALS: &[i32] = &[
    signal_hook::consts::SIGINT,
    signal_hook::consts::SIGTERM,
    signal_hook::consts::SIGHUP,
];
#[cfg(not(unix))]
const SIGNALS: &[i32] = &[signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM];

/// Whether a signal has asked this program to stop.
#[derive(Debug, Clone, Default)]
pub struct Stop(Arc<AtomicBool>);

impl Stop {
    /// From now on Ctrl-C, TERM and HUP no longer end this program but are told by [`Stop::asked`].
    /// What was ignored when it started, as HUP is under nohup, stays ignored.
    ///
    /// # Errors
    /// If the system refuses.
    pub fn on_signals() -> Result<Self> {
        let stop = Self::default();
        let ignored = ignored();
        for &signal in SIGNALS
            .iter()
            .filter(|&&signal| ignored >> (signal - 1) & 1 == 0)
        {
            signal_hook::flag::register(signal, stop.0.clone()).context("listening to signals")?;
        }
        Ok(stop)
    }

    /// Whether one has come.
    pub fn asked(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// As if one had come.
    #[cfg(test)]
    pub fn ask(&self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Bit `s - 1` for each signal `s` that this process ignores, where the system tells.
fn ignored() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .unwrap_or(0)
}
