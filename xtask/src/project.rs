//! What the commands must know about the workspace: where it lies, where cargo builds, which
//! packages there are.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use xshell::{Cmd, Shell, cmd};

use crate::json::{self, Value};

/// The workspace as `cargo metadata` tells it.
#[derive(Debug)]
pub(crate) struct Project {
    /// Where cargo builds: `CARGO_TARGET_DIR`, the configuration, or `target/`.
    pub(crate) target: PathBuf,
    /// The members, by name.
    pub(crate) packages: Vec<Package>,
}

/// A member of the workspace.
#[derive(Clone, Debug)]
pub(crate) struct Package {
    pub(crate) name: String,
    /// Relative to the workspace, with `/`: `crates/model`.
    pub(crate) folder: String,
    pub(crate) dependencies: Vec<Dependency>,
    pub(crate) targets: Vec<Target>,
}

/// One line of a manifest's dependencies.
#[derive(Clone, Debug)]
pub(crate) struct Dependency {
    pub(crate) name: String,
    pub(crate) requirement: String,
    pub(crate) kind: DependencyKind,
}

/// In which section of the manifest a dependency stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum DependencyKind {
    Normal,
    Build,
    Dev,
}

/// Something cargo builds of a package.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    pub(crate) name: String,
    /// `lib`, `bin`, `example`, `test`, `bench`.
    pub(crate) kind: String,
}

impl Project {
    /// Asks `cargo metadata`.
    ///
    /// # Errors
    /// When cargo fails or its answer lacks what is read from it.
    pub(crate) fn load(sh: &Shell) -> Result<Self> {
        let answer = cargo(sh)
            .args(["metadata", "--no-deps", "--format-version", "1"])
            .quiet()
            .read()
            .context("asking cargo about the workspace")?;
        Self::read(&answer).context("reading the answer of `cargo metadata`")
    }

    /// The packages under `crates/`.
    pub(crate) fn crates(&self) -> impl Iterator<Item = &Package> {
        self.packages.iter().filter(|package| package.folder.starts_with("crates/"))
    }

    fn read(answer: &str) -> Result<Self> {
        let answer = json::parse(answer)?;
        let root = text(&answer, "workspace_root")?;
        let packages = answer.get("packages").context("no packages")?.items();
        let mut packages =
            packages.iter().map(|value| Package::read(value, &root)).collect::<Result<Vec<_>>>()?;
        packages.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(Self { target: PathBuf::from(text(&answer, "target_directory")?), packages })
    }
}

impl Package {
    /// The name without the prefix, as the import table has it.
    pub(crate) fn short_name(&self) -> &str {
        self.name.strip_prefix("caravan-").unwrap_or(&self.name)
    }

    fn read(value: &Value, root: &str) -> Result<Self> {
        let manifest = PathBuf::from(text(value, "manifest_path")?);
        let folder = manifest.parent().context("a manifest without a folder")?;
        let folder = folder.strip_prefix(root).unwrap_or(folder);
        Ok(Self {
            name: text(value, "name")?,
            folder: folder.to_string_lossy().replace('\\', "/"),
            dependencies: value
                .get("dependencies")
                .context("no dependencies")?
                .items()
                .iter()
                .map(Dependency::read)
                .collect::<Result<_>>()?,
            targets: value
                .get("targets")
                .context("no targets")?
                .items()
                .iter()
                .map(Target::read)
                .collect::<Result<_>>()?,
        })
    }
}

impl Dependency {
    fn read(value: &Value) -> Result<Self> {
        let kind = match value.get("kind").and_then(Value::text) {
            Some("dev") => DependencyKind::Dev,
            Some("build") => DependencyKind::Build,
            _ => DependencyKind::Normal,
        };
        Ok(Self { name: text(value, "name")?, requirement: text(value, "req")?, kind })
    }
}

impl Target {
    fn read(value: &Value) -> Result<Self> {
        let kinds = value.get("kind").context("no kind")?.items();
        let kind = kinds.first().and_then(Value::text).context("no kind")?;
        Ok(Self { name: text(value, "name")?, kind: kind.to_owned() })
    }
}

/// The folder of the workspace.
pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask lies in the workspace")
}

/// A shell in the folder of the workspace.
///
/// # Errors
/// When the current folder is gone.
pub(crate) fn shell() -> Result<Shell> {
    let sh = Shell::new()?;
    sh.change_dir(root());
    Ok(sh)
}

/// The cargo that started xtask, by its short name where that is the same one.
pub(crate) fn cargo(sh: &Shell) -> Cmd<'_> {
    cmd!(sh, "cargo")
}

/// A variable of the environment.
#[allow(clippy::disallowed_methods)]
pub(crate) fn variable(name: &str) -> Option<OsString> {
    std::env::var_os(name).filter(|value| !value.is_empty())
}

/// The file that a shell would run for `program`.
pub(crate) fn find_program(program: &str) -> Option<PathBuf> {
    let path = variable("PATH")?;
    let file = format!("{program}{}", std::env::consts::EXE_SUFFIX);
    std::env::split_paths(&path).map(|folder| folder.join(&file)).find(|path| is_program(path))
}

#[cfg(unix)]
fn is_program(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt as _;
    path.metadata().is_ok_and(|data| data.is_file() && data.permissions().mode() & 0o111 != 0)
}

#[cfg(not(unix))]
fn is_program(path: &Path) -> bool {
    path.is_file()
}

fn text(value: &Value, key: &str) -> Result<String> {
    let found = value.get(key).and_then(Value::text);
    found.map(str::to_owned).with_context(|| format!("no text under `{key}`"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metadata_is_read() {
        let project = Project::read(
            r#"{"packages": [{"name": "caravan-model", "manifest_path": "/w/crates/model/Cargo.toml",
                "dependencies": [
                    {"name": "burn", "req": "=0.22.1", "kind": null},
                    {"name": "proptest", "req": "^1", "kind": "dev"}],
                "targets": [{"name": "tiny", "kind": ["example"]}]}],
                "workspace_root": "/w", "target_directory": "/w/target"}"#,
        )
        .unwrap();
        assert_eq!(project.target, Path::new("/w/target"));
        let model = project.crates().next().unwrap();
        assert_eq!((model.short_name(), model.folder.as_str()), ("model", "crates/model"));
        assert_eq!(model.dependencies[0].requirement, "=0.22.1");
        assert_eq!(model.dependencies[1].kind, DependencyKind::Dev);
        assert_eq!(model.targets[0].kind, "example");
    }

    #[test]
    fn a_program_is_found_only_where_it_is() {
        assert!(find_program("cargo").is_some());
        assert!(find_program("no-such-program-anywhere").is_none());
    }
}
