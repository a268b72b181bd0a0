//! `cargo xtask bench --scaling`: measures the machine, then the training step at all sizes, and
//! writes what came out. Knows neither what a step computes nor how a chart is drawn.
use super::case::AV;
use super::growth::{Axis, Point, Roof, Sizes, counts, exponent, series};
use super::measure::{Measured, Programs, measure, number, ours, processor, read};
use super::output::write;
use super::plot;
use super::verdict::milliseconds;
use crate::say::say;
use anyhow::{Context, Result};
use serde_json::{Map, Value, json};
use std::num::NonZeroUsize;
use std::path::Path;
use std::thread;

/// Repetitions in one start of the program; the roofline's first ones warm up as the step's do.
const ITERATIONS: &str = "5";
const WARMUP: &str = "2";

/// Measures all series `rounds` times, in turn, and writes `scaling.{json,md,svg}` into `out`.
///
/// # Errors
/// If our program can't be built or fails, or files can't be written.
pub fn run(rounds: u32, threads: u32, out: &Path) -> Result<()> {
    let programs = Programs::build(&[AV])?;
    let program = programs.find(AV)?;
    let cores = thread::available_parallelism()
        .map_or(1, NonZeroUsize::get)
        .try_into()
        .unwrap_or(u32::MAX);
    let scaling = Scaling {
        roofs: roofs(program, threads, cores)?,
        points: points(program, rounds, threads, cores)?,
        threads,
    };
    let record = scaling.json(cores, rounds)?;
    write(&out.join("scaling.json"), &format!("{record:#}\n"))?;
    let page = format!("{}\n{}\n", scaling.table()?, scaling.paragraph()?);
    write(&out.join("scaling.md"), &page)?;
    write(
        &out.join("scaling.svg"),
        &plot::draw(&scaling.points, scaling.roof(threads)?)?,
    )?;
    say(&format!(
        "\n{page}\n{}, scaling.md and scaling.svg have the results\n",
        out.join("scaling.json").display()
    ))
}

fn roofs(program: &Path, threads: u32, cores: u32) -> Result<Vec<Roof>> {
    let mut numbers = counts(cores);
    numbers.push(threads);
    numbers.sort_unstable();
    numbers.dedup();
    let mut roofs = vec![];
    for threads in numbers {
        let mut command = ours(program, threads);
        let line = read(command.args([
            "--work", "roofline", "--iters", ITERATIONS, "--warmup", WARMUP,
        ]))?;
        let roof = Roof {
            threads,
            gflops: number(&line, "gemm_gflops")?,
            bandwidth: number(&line, "bandwidth_gb_s")?,
        };
        say(&format!(
            "roofline, {}: {:.1} GFLOP/s, {:.1} GB/s\n",
            plural(threads, "thread"),
            roof.gflops,
            roof.bandwidth
        ))?;
        roofs.push(roof);
    }
    Ok(roofs)
}

fn points(program: &Path, rounds: u32, threads: u32, cores: u32) -> Result<Vec<Point>> {
    let all = Axis::ALL.into_iter().flat_map(|axis| {
        series(axis, threads, cores)
            .into_iter()
            .map(move |s| (axis, s))
    });
    let start = |(axis, (value, sizes))| Point {
        axis,
        value,
        sizes,
        times: vec![],
        flops: 0.,
        bytes: 0.,
    };
    let mut points: Vec<Point> = all.map(start).collect();
    for round in 1..=rounds {
        // Where series meet, one measurement serves all of them.
        let mut known: Vec<(Sizes, Measured)> = vec![];
        for point in &mut points {
            let measured = match known.iter().find(|(sizes, _)| *sizes == point.sizes) {
                Some((_, measured)) => measured.clone(),
                None => {
                    let measured = step(program, point.sizes)?;
                    let (name, value, time) = (
                        point.axis.name(),
                        point.value,
                        milliseconds(measured.median),
                    );
                    say(&format!(
                        "round {round} of {rounds}: {name} {value}: {time}\n"
                    ))?;
                    known.push((point.sizes, measured.clone()));
                    measured
                }
            };
            point.times.push(measured.median);
            point.flops = number(&measured.line, "conv_flops")?;
            point.bytes = number(&measured.line, "conv_bytes")?;
        }
    }
    Ok(points)
}

fn step(program: &Path, sizes: Sizes) -> Result<Measured> {
    let mut command = ours(program, sizes.threads);
    command
        .args([
            "--work",
            "step-crmt",
            "--model",
            "cnn",
            "--spectrogram",
            "64x64",
        ])
        .args(sizes.flags());
    measure(command.args(["--iters", ITERATIONS, "--warmup", WARMUP]))
}

/// What was measured.
struct Scaling {
    roofs: Vec<Roof>,
    points: Vec<Point>,
    /// Of all series but that of the threads.
    threads: u32,
}

impl Scaling {
    fn roof(&self, threads: u32) -> Result<&Roof> {
        let found = self.roofs.iter().find(|roof| roof.threads == threads);
        found.with_context(|| format!("no roofline on {}", plural(threads, "thread")))
    }

    fn series(&self, axis: Axis) -> Vec<&Point> {
        self.points
            .iter()
            .filter(|point| point.axis == axis)
            .collect()
    }

    fn exponents(&self, axis: Axis) -> Value {
        let series = self.series(axis);
        json!({ "time": exponent(&series, Point::time), "conv_flops": exponent(&series, |point| point.flops) })
    }

    fn json(&self, cores: u32, rounds: u32) -> Result<Value> {
        let points = self
            .points
            .iter()
            .map(|point| Ok(point.json(self.roof(point.sizes.threads)?)));
        let exponents = Axis::ALL.map(|axis| (axis.name().to_owned(), self.exponents(axis)));
        Ok(json!({
            "processor": processor(),
            "cores": cores,
            "threads": self.threads,
            "rounds": rounds,
            "roofline": self.roofs.iter().map(Roof::json).collect::<Vec<_>>(),
            "exponents": exponents.into_iter().collect::<Map<_, _>>(),
            "steps": points.collect::<Result<Vec<_>>>()?,
        }))
    }

    fn table(&self) -> Result<String> {
        let mut text = String::from(
            "| series | value | a step | GFLOP/s | share of the matrix product's peak | FLOP a byte | share of the roof |\n\
             |---|---|---|---|---|---|---|\n",
        );
        for point in &self.points {
            let roof = self.roof(point.sizes.threads)?;
            text.push_str(&format!(
                "| {} | {} | {} | {:.1} | {:.0} % | {:.1} | {:.0} % |\n",
                point.axis.name(),
                point.value,
                milliseconds(point.time()),
                point.gflops(),
                100. * point.gflops() / roof.gflops,
                point.intensity(),
                100. * point.gflops() / roof.limit(point.intensity())
            ));
        }
        Ok(text)
    }

    /// The same in sentences.
    fn paragraph(&self) -> Result<String> {
        let roof = self.roof(self.threads)?;
        let share = |axis| -> Result<Vec<f64>> {
            let shares = self
                .series(axis)
                .into_iter()
                .map(|p| Ok(p.gflops() / self.roof(p.sizes.threads)?.gflops));
            shares.collect()
        };
        let percent =
            |x: Option<&f64>| x.map_or_else(|| "–".into(), |x| format!("{:.0} %", 100. * x));
        let batches = self.series(Axis::Batch);
        let shares = share(Axis::Batch)?;
        let mut text = format!(
            "On {} ({}), the best matrix product runs at {:.1} GFLOP/s and memory streams {:.1} GB/s, so that work \
             below {:.1} FLOP a byte is bound by memory.",
            plural(self.threads, "thread"),
            processor().unwrap_or_else(|| "processor unknown".into()),
            roof.gflops,
            roof.bandwidth,
            roof.gflops / roof.bandwidth
        );
        if let (Some(first), Some(last)) = (batches.first(), batches.last()) {
            text.push_str(&format!(
                " The convolutions of a step, counted as a plain direct implementation needs them, reach {} of that \
                 peak with {} samples and {} with {}, at {:.1} to {:.1} FLOP a byte.",
                percent(shares.first()),
                first.value,
                percent(shares.last()),
                last.value,
                first.intensity(),
                last.intensity()
            ));
        }
        let growth = |cost: fn(&Point) -> f64| -> String {
            let axes = [Axis::Batch, Axis::Width, Axis::Classes, Axis::Modalities].into_iter();
            let powers = axes.filter_map(|axis| Some((axis, exponent(&self.series(axis), cost)?)));
            powers
                .map(|(axis, power)| format!("{}^{power:.2}", axis.name()))
                .collect::<Vec<_>>()
                .join(", ")
        };
        text.push_str(&format!(
            " The step's time grows as {}; these operations, as {}.",
            growth(Point::time),
            growth(|point| point.flops)
        ));
        let threads = self.series(Axis::Threads);
        if let [first, .., last] = &threads[..] {
            let gain = first.time() / last.time();
            text.push_str(&format!(
                " {} are {gain:.2} times as fast as one.",
                plural(last.value, "thread")
            ));
        }
        Ok(text)
    }
}

fn plural(n: u32, what: &str) -> String {
    if n == 1 {
        format!("{n} {what}")
    } else {
        format!("{n} {what}s")
    }
}
