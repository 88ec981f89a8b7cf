//! What all ranks of a run have to have in common: the program, the command and the settings.
//!
//! Ranks that were started differently would wait for each other in different places, or train a mixture that nobody
//! asked for. So each says what it was started with before anything else, and the first that differs is named.

use std::io;

use serde::{Deserialize, Serialize};

use crate::config::RunConfig;
use crate::error::{Result, TrainError};

/// What a rank was started with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Identity {
    /// Kind and words, in the order in which differences are reported.
    parts: Vec<(Part, String)>,
    /// The model of the CPU, where the system tells it. Others are allowed.
    cpu: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Part {
    Program,
    Command,
    Device,
    Setting,
}

impl Part {
    /// What to do about a difference.
    fn help(self) -> &'static str {
        match self {
            Self::Program => {
                "install the same build of caravan on all machines, or start all ranks from one file that they share"
            }
            Self::Command => "start all ranks with --resume, or none of them",
            Self::Device => "give all ranks the same kind of --device",
            Self::Setting => {
                "give all ranks the same arguments, and the same configuration file where machines do not share it"
            }
        }
    }
}

impl Identity {
    /// A rank that runs `command` on `device`.
    pub(crate) fn new(command: &str, device: &str) -> Self {
        // Ranks may have GPUs of their own.
        let kind = device.split(':').next().unwrap_or_default();
        let parts = vec![
            (Part::Program, program()),
            (Part::Command, format!("`{command}`")),
            (Part::Device, format!("--device {kind}")),
        ];
        Self { parts, cpu: cpu() }
    }

    /// With every setting of `config`.
    pub(crate) fn with(mut self, config: &RunConfig) -> Self {
        let settings = config.values().into_iter();
        self.parts
            .extend(settings.map(|(name, value)| (Part::Setting, format!("{name} = {value}"))));
        self
    }

    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("names and values are JSON")
    }

    /// Compares what the ranks say, in rank order; a note where their CPUs differ.
    ///
    /// # Errors
    /// The first rank that differs from rank 0, and in what.
    pub(crate) fn compare(ranks: &[Vec<u8>]) -> Result<Option<String>> {
        let of_another_version = |_| Self {
            parts: vec![(Part::Program, "a caravan of another version".to_owned())],
            cpu: String::new(),
        };
        let said =
            |bytes: &Vec<u8>| serde_json::from_slice(bytes).unwrap_or_else(of_another_version);
        let ranks: Vec<Self> = ranks.iter().map(said).collect();
        let (first, others) = ranks.split_first().expect("a group has a first rank");
        for (rank, other) in (1..).zip(others) {
            let mut pairs = first.parts.iter().zip(&other.parts);
            if let Some(((part, expected), (_, found))) = pairs.find(|(a, b)| a != b) {
                return Err(TrainError::MixedRanks {
                    rank,
                    found: found.clone(),
                    expected: expected.clone(),
                    help: part.help(),
                });
            }
        }
        let mut numbered = (1..).zip(others);
        Ok(numbered.find(|(_, other)| other.cpu != first.cpu).map(|(rank, other)| {
            format!(
                "rank {rank} computes on another CPU (`{}`) than rank 0 (`{}`): the same bits on every layout are promised for one model of CPU",
                other.cpu, first.cpu
            )
        }))
    }
}

/// Version and content of the program: two builds of one version may differ.
fn program() -> String {
    let version = env!("CARGO_PKG_VERSION");
    match hash() {
        Ok(hash) => format!("caravan {version} (program file {})", &hash.to_hex()[..12]),
        // It may be run, but not read.
        Err(_) => format!("caravan {version}"),
    }
}

fn hash() -> io::Result<blake3::Hash> {
    // On Linux the file that runs, also after another was installed in its place.
    let path = match cfg!(target_os = "linux") {
        true => "/proc/self/exe".into(),
        false => std::env::current_exe()?,
    };
    let mut hasher = blake3::Hasher::new();
    hasher.update_reader(std::fs::File::open(path)?)?;
    Ok(hasher.finalize())
}

fn cpu() -> String {
    let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let line = text.lines().find(|line| line.starts_with("model name"));
    line.and_then(|line| line.split_once(':')).map_or("", |(_, name)| name.trim()).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity(words: &[&str]) -> Identity {
        let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
        Identity::new("train", "flex").with(&RunConfig::default().with_overrides(&words).unwrap())
    }

    fn refused(ranks: &[Identity]) -> String {
        let bytes: Vec<_> = ranks.iter().map(Identity::to_bytes).collect();
        Identity::compare(&bytes).unwrap_err().to_string()
    }

    #[test]
    fn ranks_that_were_started_alike_are_fine() {
        let alike = vec![identity(&["steps=3"]).to_bytes(); 3];
        assert_eq!(Identity::compare(&alike).unwrap(), None);
        let mut gpus = [Identity::new("train", "cuda:0"), Identity::new("train", "cuda:1")];
        gpus[1].cpu = "abacus".to_owned();
        let bytes: Vec<_> = gpus.iter().map(Identity::to_bytes).collect();
        let note = Identity::compare(&bytes).unwrap().expect("a note");
        assert!(
            note.starts_with("rank 1 computes on another CPU (`abacus`) than rank 0"),
            "{note}"
        );
    }

    #[test]
    fn the_first_that_differs_is_named() {
        let same = || identity(&["steps=3"]);
        let other = identity(&["steps=3", "min_lr=1e-5", "weight_decay=0.5"]);
        assert_eq!(
            refused(&[same(), same(), other.clone(), other]),
            "rank 2 was started with min_lr = 0.00001, rank 0 with min_lr = unset\nhelp: give all ranks the same arguments, and the same configuration file where machines do not share it"
        );
        let resumed = Identity::new("train --resume", "flex");
        let text = refused(&[same(), resumed]);
        assert!(
            text.starts_with("rank 1 was started with `train --resume`, rank 0 with `train`\n"),
            "{text}"
        );
        let text = refused(&[same(), Identity::new("train", "tch")]);
        assert!(
            text.starts_with("rank 1 was started with --device tch, rank 0 with --device flex\n"),
            "{text}"
        );
        let mut newer = same();
        newer.parts[0].1 = "caravan 9.0.0".to_owned();
        let text = refused(&[same(), newer]);
        assert!(
            text.contains("rank 1 was started with caravan 9.0.0, rank 0 with caravan 0."),
            "{text}"
        );
        let bytes = [same().to_bytes(), b"what".to_vec()];
        let text = Identity::compare(&bytes).unwrap_err().to_string();
        assert!(text.contains("rank 1 was started with a caravan of another version"), "{text}");
    }
}
