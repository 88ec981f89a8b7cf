//! Rules on packages: their manifests, their examples, their place in the documents.

use std::collections::BTreeMap;

use super::{File, Finding, imports};
use crate::project::{Package, Project};

/// Holds the rules over every package.
pub(super) fn check(project: &Project, files: &[File]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for package in &project.packages {
        let path = format!("{}/Cargo.toml", package.folder);
        if let Some(text) = text(files, &path) {
            findings.extend(workspace_lints(&path, text));
        }
        findings.extend(pins(package));
    }
    for package in project.crates() {
        findings.extend(example(package, files));
    }
    findings.extend(example_names(project));
    let folders: Vec<&str> = project.crates().map(|package| package.folder.as_str()).collect();
    findings.extend(crate_map(text(files, "README.md").unwrap_or_default(), &folders));
    findings.extend(changelog(text(files, "CHANGELOG.md").unwrap_or_default()));
    findings
}

fn text<'a>(files: &'a [File], path: &str) -> Option<&'a str> {
    files.iter().find(|file| file.path == path).and_then(|file| file.text.as_deref())
}

/// Every manifest takes the lints of the workspace.
fn workspace_lints(path: &str, manifest: &str) -> Option<Finding> {
    let mut lines = manifest.lines().map(str::trim).skip_while(|line| *line != "[lints]").skip(1);
    let section = lines.by_ref().take_while(|line| !line.starts_with('['));
    let takes = section.filter(|line| line.replace(' ', "") == "workspace=true").count() == 1;
    (!takes).then(|| Finding::failure(path, "lacks `[lints]` with `workspace = true`"))
}

/// Burn is pinned exactly: its minor releases change results and names.
fn pins(package: &Package) -> Vec<Finding> {
    let burn = package.dependencies.iter().filter(|d| {
        d.name == "burn" || d.name.starts_with("burn-") || d.name.starts_with("cubecl")
    });
    burn.filter(|dependency| !dependency.requirement.starts_with('='))
        .map(|dependency| {
            let message = format!(
                "`{}` is not pinned with `=`: `{}`",
                dependency.name, dependency.requirement
            );
            Finding::failure(format!("{}/Cargo.toml", package.folder), message)
        })
        .collect()
}

/// A library shows how it is used alone.
fn example(package: &Package, files: &[File]) -> Option<Finding> {
    let has_library =
        files.iter().any(|file| file.path == format!("{}/src/lib.rs", package.folder));
    let has_example = package.targets.iter().any(|target| target.kind == "example");
    (has_library && !has_example)
        .then(|| Finding::failure(&package.folder, "a library without an example in examples/"))
}

/// Cargo builds all examples into one folder.
fn example_names(project: &Project) -> Vec<Finding> {
    let mut seen: BTreeMap<&str, &str> = BTreeMap::new();
    let mut findings = Vec::new();
    for package in &project.packages {
        for target in package.targets.iter().filter(|target| target.kind == "example") {
            if let Some(other) = seen.insert(&target.name, &package.folder) {
                let message = format!("{other} too has an example `{}`", target.name);
                findings.push(Finding::failure(&package.folder, message));
            }
        }
    }
    findings
}

/// README names each crate that exists and none that does not.
fn crate_map(readme: &str, folders: &[&str]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for folder in folders {
        if !readme.contains(&format!("({folder})")) {
            let message = format!("the crate map has no row that links to {folder}");
            findings.push(Finding::failure("README.md", message));
        }
    }
    for row in imports::TABLE {
        let folder = format!("crates/{}", row.name);
        if readme.contains(&format!("({folder})")) && !folders.contains(&folder.as_str()) {
            let message = format!("links to {folder}, which does not exist");
            findings.push(Finding::failure("README.md", message));
        }
    }
    findings
}

/// A change that moves a loss curve has a place to be told.
fn changelog(text: &str) -> Option<Finding> {
    let has = text.lines().any(|line| line.trim() == "### Numerics");
    (!has).then(|| Finding::failure("CHANGELOG.md", "lacks the heading `### Numerics`"))
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::project::{Dependency, DependencyKind, Target};

    fn package(folder: &str, example: Option<&str>) -> Package {
        Package {
            name: folder.replace("crates/", "caravan-"),
            folder: folder.to_owned(),
            dependencies: Vec::new(),
            targets: example
                .map(|name| Target { name: name.to_owned(), kind: "example".to_owned() })
                .into_iter()
                .collect(),
        }
    }

    #[test]
    fn a_manifest_without_the_lints_fails() {
        assert_eq!(workspace_lints("m", "[package]\n\n[lints]\nworkspace = true\n"), None);
        assert!(workspace_lints("m", "[package]\nname = \"x\"\n").is_some());
        assert!(workspace_lints("m", "[lints]\n[x]\nworkspace = true\n").is_some());
    }

    #[test]
    fn a_loose_burn_fails() {
        let mut package = package("crates/model", None);
        for (requirement, n_findings) in [("=0.22.1", 0), ("^0.22.1", 1)] {
            package.dependencies = vec![Dependency {
                name: "burn-cubecl".to_owned(),
                requirement: requirement.to_owned(),
                kind: DependencyKind::Normal,
            }];
            assert_eq!(pins(&package).len(), n_findings);
        }
    }

    #[test]
    fn a_library_without_an_example_fails() {
        let files = [File::of_text("crates/a/src/lib.rs", "//! A.\n")];
        assert!(example(&package("crates/a", None), &files).is_some());
        assert_eq!(example(&package("crates/a", Some("x")), &files), None);
        assert_eq!(example(&package("crates/cli", None), &files), None);
    }

    #[test]
    fn two_examples_of_one_name_fail() {
        let packages = vec![package("crates/a", Some("x")), package("crates/b", Some("x"))];
        let mut project = Project { target: PathBuf::new(), packages };
        assert_eq!(example_names(&project).len(), 1);
        project.packages.pop();
        assert_eq!(example_names(&project), []);
    }

    #[test]
    fn a_crate_map_with_gaps_or_ghosts_fails() {
        let readme = "| [`model`](crates/model) | x |";
        assert_eq!(crate_map(readme, &["crates/model"]), []);
        assert_eq!(crate_map(readme, &["crates/model", "crates/optim"]).len(), 1);
        assert_eq!(crate_map("(crates/serve)", &[]).len(), 1);
    }

    #[test]
    fn a_changelog_without_numerics_fails() {
        assert_eq!(changelog("## Unreleased\n### Numerics\n"), None);
        assert!(changelog("## Unreleased\n").is_some());
    }
}
