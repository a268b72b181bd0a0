//! The methods of training, each a few settings of one loop. Does not know what a setting means.

/// A method: what it sets beyond the defaults, and what it is.
pub struct Method {
    /// As in `--method`.
    pub name: &'static str,
    /// One line for `--help`.
    pub about: &'static str,
    /// TOML of dotted keys.
    pub settings: &'static str,
}

const CRMT: &str = "model.head = 'orthonormal'\ntrain.rho = 2.0\n";

/// Every method is a few settings of one loop.
pub const METHODS: &[Method] = &[
    Method {
        name: "jt",
        about: "joint training: one cross-entropy on summed scores",
        settings: "",
    },
    Method {
        name: "ojt",
        about: "joint training with orthonormal class directions",
        settings: "model.head = 'orthonormal'",
    },
    Method {
        name: "mixup",
        about: "joint training on Mixup samples",
        settings: "train.inputs = 'mixup'",
    },
    Method {
        name: "at",
        about: "adversarial training: joint-l2 PGD samples",
        settings: "train.inputs = 'adversarial'",
    },
    Method {
        name: "dropout",
        about: "joint training with modalities missing from whole batches at random",
        settings: "train.inputs = 'dropout'",
    },
    Method {
        name: "g-blend",
        about: "losses of each modality and of all, weighted by how well they generalise (Wang et al. 2020)",
        settings: "train.objective = 'g-blend'",
    },
    Method {
        name: "ogm-ge",
        about: "the encoder of whoever is ahead learns more slowly (Peng et al. 2022)",
        settings: "train.objective = 'ogm-ge'",
    },
    Method {
        name: "pmr",
        about: "whoever lags is pulled towards the prototypes of its classes (Fan et al. 2023)",
        settings: "train.objective = 'pmr'",
    },
    Method {
        name: "msefm",
        about: "dissimilar features, read through a memory (Tian & Xu 2021)",
        settings: "train.objective = 'msefm'\nmodel.memory = 64",
    },
    Method {
        name: "noise",
        about: "joint training on noisy inputs, for randomized smoothing (certify --smooth)",
        settings: "train.inputs = 'noise'",
    },
    Method {
        name: "crmt-step-1",
        about: "CRMT's first step alone: orthonormal head and margin term",
        settings: CRMT,
    },
    Method {
        name: "crmt-step-2",
        about: "CRMT's second step alone, after joint training with an orthonormal head",
        settings: "model.head = 'orthonormal'\nstep2.enabled = true",
    },
    Method {
        name: "crmt-jt",
        about: "CRMT: margin term, then integration weights for the radius",
        settings: "model.head = 'orthonormal'\ntrain.rho = 2.0\nstep2.enabled = true",
    },
    Method {
        name: "crmt-at",
        about: "CRMT on adversarial samples",
        settings: "model.head = 'orthonormal'\ntrain.rho = 2.0\nstep2.enabled = true\ntrain.inputs = 'adversarial'",
    },
    Method {
        name: "crmt-mix",
        about: "CRMT on Mixup samples",
        settings: "model.head = 'orthonormal'\ntrain.rho = 2.0\nstep2.enabled = true\ntrain.inputs = 'mixup'",
    },
    Method {
        name: "crmt-certified",
        about: "certified CRMT: 1-Lipschitz encoders, the certificate inside the loss; radii are proved",
        settings: "model.encoder = 'lipschitz'\nmodel.head = 'gauged'\ntrain.objective = 'certified'\n\
                   train.learning_rate = 0.01\ntrain.weight_decay = 0.0\ntrain.clip = 0.0\ntrain.epochs = 20\n\
                   certified.modality_dropout = 0.05\nstep2.enabled = true\nstep2.prune = true\n\
                   step2.accept_eps = [1.0, 1.58]",
    },
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::Settings;

    #[test]
    fn every_method_resolves_without_a_fault() {
        for method in METHODS {
            let mut settings = Settings::default();
            settings.set("method", method.name.into(), "test".into());
            let plan = settings
                .resolve()
                .unwrap_or_else(|e| panic!("{}: {e}", method.name))
                .plan;
            assert_eq!(plan.method, method.name);
            assert_eq!(plan.faults(), Vec::<String>::new());
        }
    }
}
