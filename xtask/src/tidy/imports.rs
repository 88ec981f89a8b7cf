//! The import table: who may know whom. It is the layering of ARCHITECTURE.md, held against
//! `cargo metadata`, and against `cargo tree` for what a crate reaches through others.

use anyhow::Result;
use xshell::{Shell, cmd};

use super::Finding;
use crate::project::{DependencyKind, Package, Project};

/// A crate and the crates of ours that it may import. Dev-dependencies are free.
#[derive(Debug)]
pub(super) struct Row {
    pub(super) name: &'static str,
    may_import: &'static [&'static str],
    burn: Burn,
}

/// Whether a crate may reach Burn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Burn {
    /// Not even through another crate.
    Never,
    May,
}

const ABOVE_EVAL: &[&str] = &[
    "tokenizer",
    "dataset",
    "kernels",
    "collective",
    "model",
    "optim",
    "checkpoint",
    "parallel",
    "generate",
    "eval",
];
const ABOVE_TRAIN: &[&str] = &[
    "tokenizer",
    "dataset",
    "kernels",
    "collective",
    "model",
    "optim",
    "checkpoint",
    "parallel",
    "generate",
    "eval",
    "train",
];
const ABOVE_CLI: &[&str] = &[
    "tokenizer",
    "dataset",
    "kernels",
    "collective",
    "model",
    "optim",
    "checkpoint",
    "parallel",
    "generate",
    "eval",
    "train",
    "finetune",
    "serve",
    "hub",
];

/// One row per crate, lowest first. Rows may be ahead of the crates; a crate without a row fails.
pub(super) const TABLE: &[Row] = &[
    Row { name: "gguf", may_import: &[], burn: Burn::Never },
    Row { name: "tokenizer", may_import: &["gguf"], burn: Burn::Never },
    Row { name: "dataset", may_import: &["tokenizer"], burn: Burn::Never },
    Row { name: "kernels", may_import: &[], burn: Burn::May },
    Row { name: "collective", may_import: &[], burn: Burn::May },
    Row { name: "model", may_import: &["gguf", "kernels"], burn: Burn::May },
    Row { name: "optim", may_import: &[], burn: Burn::May },
    Row { name: "checkpoint", may_import: &[], burn: Burn::May },
    Row { name: "parallel", may_import: &["collective", "model", "optim"], burn: Burn::May },
    Row { name: "generate", may_import: &["tokenizer", "model"], burn: Burn::May },
    Row {
        name: "eval",
        may_import: &["tokenizer", "dataset", "model", "generate"],
        burn: Burn::May,
    },
    Row { name: "train", may_import: ABOVE_EVAL, burn: Burn::May },
    Row { name: "finetune", may_import: ABOVE_TRAIN, burn: Burn::May },
    Row { name: "serve", may_import: &["tokenizer", "model", "generate"], burn: Burn::May },
    Row { name: "hub", may_import: &[], burn: Burn::Never },
    Row { name: "cli", may_import: ABOVE_CLI, burn: Burn::May },
];

/// What a crate must not reach, not even through others, and why.
const OUT_OF_REACH: &[(&str, &str, &str)] = &[
    ("tokenizer", "burn", "it serves programs that never train"),
    ("dataset", "burn", "it serves programs that never train"),
    ("dataset", "sentencepiece", "it needs the trait `Encode` alone, without native code"),
    ("dataset", "tokenizers", "it needs the trait `Encode` alone, without native code"),
];

/// The only dependencies of xtask, so that it builds in seconds.
const XTASK_MAY_IMPORT: &[&str] = &["anyhow", "clap", "xshell"];

/// Holds the table against the workspace.
///
/// # Errors
/// When cargo fails.
pub(super) fn check(sh: &Shell, project: &Project) -> Result<Vec<Finding>> {
    let mut findings: Vec<Finding> = project.crates().flat_map(direct).collect();
    for package in project.packages.iter().filter(|package| package.name == "xtask") {
        findings.extend(xtask(package));
    }
    for package in project.crates() {
        if !OUT_OF_REACH.iter().any(|(name, ..)| *name == package.short_name()) {
            continue;
        }
        let name = &package.name;
        let tree = cmd!(sh, "cargo tree -p {name} -e normal,build --prefix none").quiet().read()?;
        findings.extend(reached(package, &tree));
    }
    Ok(findings)
}

/// The rules on the manifest of one crate.
fn direct(package: &Package) -> Vec<Finding> {
    let place = format!("{}/Cargo.toml", package.folder);
    let Some(row) = TABLE.iter().find(|row| row.name == package.short_name()) else {
        let help = "has no row in the import table of xtask/src/tidy/imports.rs";
        return vec![Finding::failure(place, format!("`{}` {help}", package.short_name()))];
    };
    let mut findings = Vec::new();
    let imports = package.dependencies.iter().filter(|d| d.kind != DependencyKind::Dev);
    for dependency in imports {
        if let Some(import) = dependency.name.strip_prefix("caravan-") {
            if !row.may_import.contains(&import) {
                let message = format!(
                    "`{}` may not import `{import}` (it may: {})",
                    row.name,
                    row.may_import.join(", ")
                );
                findings.push(Finding::failure(&place, message));
            }
        } else if is_burn(&dependency.name) && row.burn == Burn::Never {
            let message = format!("`{}` may not import `{}`", row.name, dependency.name);
            findings.push(Finding::failure(&place, message));
        }
    }
    findings
}

fn xtask(package: &Package) -> Vec<Finding> {
    let foreign = package
        .dependencies
        .iter()
        .filter(|dependency| !XTASK_MAY_IMPORT.contains(&dependency.name.as_str()));
    foreign
        .map(|dependency| {
            let message =
                format!("xtask may not import `{}`: it stays quick to build", dependency.name);
            Finding::failure("xtask/Cargo.toml", message)
        })
        .collect()
}

/// The rules on everything a crate reaches: one `name version` per line of `tree`.
fn reached(package: &Package, tree: &str) -> Vec<Finding> {
    let names: Vec<&str> =
        tree.lines().map(|line| line.split(' ').next().unwrap_or(line)).collect();
    let rules = OUT_OF_REACH.iter().filter(|(name, ..)| *name == package.short_name());
    let broken = rules.filter(|(_, target, _)| {
        names.iter().any(|name| name == target || (*target == "burn" && is_burn(name)))
    });
    broken
        .map(|(_, target, why)| {
            let message = format!("reaches `{target}`, which it must not: {why}");
            Finding::failure(format!("{}/Cargo.toml", package.folder), message)
        })
        .collect()
}

fn is_burn(name: &str) -> bool {
    name == "burn" || name.starts_with("burn-") || name.starts_with("cubecl")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::project::Dependency;

    fn package(name: &str, dependencies: &[(&str, DependencyKind)]) -> Package {
        Package {
            name: format!("caravan-{name}"),
            folder: format!("crates/{name}"),
            dependencies: dependencies
                .iter()
                .map(|(name, kind)| Dependency {
                    name: (*name).to_owned(),
                    requirement: "*".to_owned(),
                    kind: *kind,
                })
                .collect(),
            targets: Vec::new(),
        }
    }

    #[test]
    fn an_import_against_the_table_fails() {
        let normal = DependencyKind::Normal;
        let fine = package("model", &[("caravan-kernels", normal), ("burn", normal)]);
        assert_eq!(direct(&fine), []);
        let upward = package("model", &[("caravan-optim", normal)]);
        assert_eq!(direct(&upward).len(), 1);
        let build = package("model", &[("caravan-optim", DependencyKind::Build)]);
        assert_eq!(direct(&build).len(), 1);
        let only_tests = package("model", &[("caravan-optim", DependencyKind::Dev)]);
        assert_eq!(direct(&only_tests), []);
        let burning = package("dataset", &[("burn-tensor", normal)]);
        assert_eq!(direct(&burning).len(), 1);
    }

    #[test]
    fn a_crate_without_a_row_fails() {
        assert_eq!(direct(&package("common", &[])).len(), 1);
    }

    #[test]
    fn a_dependency_of_xtask_beyond_its_three_fails() {
        let normal = DependencyKind::Normal;
        assert_eq!(xtask(&package("xtask", &[("clap", normal), ("xshell", normal)])), []);
        assert_eq!(xtask(&package("xtask", &[("serde", normal)])).len(), 1);
    }

    #[test]
    fn what_must_stay_out_of_reach_is_found_through_others() {
        let dataset = package("dataset", &[]);
        assert_eq!(reached(&dataset, "caravan-dataset v0.1.0 (/w)\nblake3 v1.8.7\n"), []);
        assert_eq!(reached(&dataset, "blake3 v1.8.7\nburn-tensor v0.22.1\n").len(), 1);
        assert_eq!(reached(&dataset, "sentencepiece v0.14.0\ntokenizers v0.23.2 (*)\n").len(), 2);
        assert_eq!(reached(&package("tokenizer", &[]), "tokenizers v0.23.2\n"), []);
        assert_eq!(reached(&package("model", &[]), "burn v0.22.1\n"), []);
    }
}
