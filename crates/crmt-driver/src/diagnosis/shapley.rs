//! Shapley values of a game with few players, exactly.
//! Does not know what the players are.

/// More players than this have too many coalitions, `2^n`, to value each of them.
pub const MOST_PLAYERS: usize = 10;

/// `φ(m) = Σ_{S ∌ m} |S|! (n − |S| − 1)! / n! · (v(S ∪ {m}) − v(S))` of each of `n` players: what
/// `m` adds on average, over all orders in which the players may arrive. They sum to
/// `v(all) − v(none)`.
///
/// `values[S]` is `v(S)` of all `2^n` coalitions; bit `m` of `S` says whether player `m` is in it.
pub fn shapley(values: &[f64]) -> Vec<f64> {
    let players = values.len().ilog2() as usize;
    assert_eq!(values.len(), 1 << players, "one value for each coalition");
    // s! (n − s − 1)! / n! of each size s, each from the one before.
    let weights: Vec<f64> = (0..players)
        .scan(1.0 / players as f64, |next, s| {
            let weight = *next;
            *next *= (s + 1) as f64 / (players - s).saturating_sub(1).max(1) as f64;
            Some(weight)
        })
        .collect();
    let of = |player: usize| {
        let without = (0..values.len()).filter(|s| s >> player & 1 == 0);
        without
            .map(|s| weights[s.count_ones() as usize] * (values[s | 1 << player] - values[s]))
            .sum()
    };
    (0..players).map(of).collect()
}

/// Each value's part of what they add up to; they sum to 1, and one that is negative keeps its
/// sign. None where the sum is not positive: then there is nothing to share.
pub fn shares(values: &[f64]) -> Option<Vec<f64>> {
    let total: f64 = values.iter().sum();
    (total > 0.0).then(|| values.iter().map(|v| v / total).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A game without any structure.
    fn game(players: usize) -> Vec<f64> {
        (0..1usize << players)
            .map(|s| ((s * 37 + 11) % 23) as f64 / 7.0)
            .collect()
    }

    fn close(a: f64, b: f64) -> bool {
        // Up to 512 terms of size 1 round to 1e-13.
        (a - b).abs() < 1e-12
    }

    #[test]
    fn an_additive_game_gives_each_player_what_it_brings() {
        let brings = [0.5, -1.25, 2.0];
        let of = |s: usize| {
            3.0 + (0..3)
                .filter(|m| s >> m & 1 == 1)
                .map(|m| brings[m])
                .sum::<f64>()
        };
        let got = shapley(&(0..8).map(of).collect::<Vec<_>>());
        assert!(got.iter().zip(brings).all(|(a, b)| close(*a, b)), "{got:?}");
    }

    /// Gloves: a left one and two right ones, of which a pair is worth 1. By the six orders: 4/6,
    /// 1/6, 1/6.
    #[test]
    fn gloves_are_shared_as_in_the_textbook() {
        let pair = |s: usize| f64::from(u8::from(s & 1 == 1 && s >> 1 != 0));
        let got = shapley(&(0..8).map(pair).collect::<Vec<_>>());
        assert!(
            got.iter()
                .zip([4.0, 1.0, 1.0])
                .all(|(a, b)| close(*a, b / 6.0)),
            "{got:?}"
        );
    }

    #[test]
    fn the_values_add_up_to_what_all_bring() {
        for players in 1..=MOST_PLAYERS {
            let v = game(players);
            let sum: f64 = shapley(&v).iter().sum();
            assert!(close(sum, v[v.len() - 1] - v[0]), "{players}: {sum}");
        }
    }

    #[test]
    fn players_that_do_the_same_get_the_same_and_names_do_not_matter() {
        // Players 0 and 2 are exchangeable; player 1 is not.
        let v = |s: usize| {
            let (both, middle) = ((s & 1) + (s >> 2 & 1), s >> 1 & 1);
            (both * both) as f64 + 0.3 * (both * middle) as f64 - 0.7 * middle as f64
        };
        let got = shapley(&(0..8).map(v).collect::<Vec<_>>());
        assert!(close(got[0], got[2]) && !close(got[0], got[1]), "{got:?}");
        // Turned round: bit m becomes bit 2 - m.
        let any = game(3);
        let turned: Vec<f64> = (0..8usize)
            .map(|s| any[(s & 1) << 2 | s & 2 | s >> 2])
            .collect();
        let (a, b) = (shapley(&any), shapley(&turned));
        assert!((0..3).all(|m| close(a[m], b[2 - m])), "{a:?} {b:?}");
    }

    #[test]
    fn shares_sum_to_one_or_are_none() {
        assert_eq!(shares(&[0.5]), Some(vec![1.0]));
        assert_eq!(shares(&[3.0, -1.0, 2.0]), Some(vec![0.75, -0.25, 0.5]));
        assert_eq!(
            (
                shares(&[0.0, 0.0]),
                shares(&[1.0, -2.0]),
                shares(&[f64::NAN])
            ),
            (None, None, None)
        );
    }
}
