//! `cargo xtask setup`: the native programs that the build needs.
//!
//! Finds them; installs what is missing where it may (apt-get as root or with sudo that asks for
//! no password, Homebrew); elsewhere ends with one error that names the command to run. The
//! launcher and the tests call [`ensure`] first, which only looks through `PATH`.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, Result, bail};
use xshell::{Shell, cmd};

use crate::project::{self, Project};

/// Finds, or where it may installs, what the build needs from the system.
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    /// Also Open MPI and libclang, for runs over several processes
    #[arg(long)]
    mpi: bool,
    /// Also a Python environment with PyTorch, for `--device tch`
    #[arg(long)]
    tch: bool,
}

/// The release of PyTorch that burn-tch 0.22 links against; its build script refuses any other.
const TORCH: &str = "torch==2.9.0";

/// Does what `args` ask and says what it did.
///
/// # Errors
/// When something is missing that may not be installed from here.
pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let sh = project::shell()?;
    let mut needs = BASE.to_vec();
    if args.mpi {
        needs.extend_from_slice(MPI);
    }
    for need in &needs {
        if let Some(path) = (need.find)() {
            println!("found    {}: {}", need.name, path.display());
        }
    }
    install(&sh, &missing(&needs))?;
    if args.tch {
        make_torch_environment(&sh)?;
    }
    println!("setup    done");
    Ok(ExitCode::SUCCESS)
}

/// Makes sure that the workspace can be built; silent and cheap when everything is there.
///
/// # Errors
/// As [`run`].
pub(crate) fn ensure(sh: &Shell) -> Result<()> {
    install(sh, &missing(BASE))
}

/// The same for what a build and a run over MPI need.
///
/// # Errors
/// As [`run`].
pub(crate) fn ensure_mpi(sh: &Shell) -> Result<()> {
    install(sh, &missing(MPI))
}

/// The variables that a build and a run with `tch` need: none where the user has chosen a libtorch.
///
/// # Errors
/// When there is neither a choice of the user's nor the environment of `setup --tch`.
pub(crate) fn torch_variables(sh: &Shell) -> Result<Vec<(&'static str, OsString)>> {
    if ["LIBTORCH", "LIBTORCH_USE_PYTORCH"].iter().any(|name| project::variable(name).is_some()) {
        return Ok(Vec::new());
    }
    let venv = torch_environment(sh)?;
    let Some(libraries) = torch_libraries(&venv) else {
        bail!(
            "the device `tch` needs PyTorch's libraries, and {} holds none\nhelp: run `cargo \
             xtask setup --tch`, or set LIBTORCH to the folder of a libtorch 2.9.0",
            venv.display()
        );
    };
    Ok(vec![
        ("LIBTORCH_USE_PYTORCH", "1".into()),
        ("PATH", prepend(&venv.join("bin"), "PATH")?),
        (LIBRARY_PATH, prepend(&libraries, LIBRARY_PATH)?),
    ])
}

/// Where the loader looks for shared libraries first.
const LIBRARY_PATH: &str =
    if cfg!(target_os = "macos") { "DYLD_LIBRARY_PATH" } else { "LD_LIBRARY_PATH" };

/// Something the build needs.
#[derive(Clone, Copy, Debug)]
struct Need {
    name: &'static str,
    find: fn() -> Option<PathBuf>,
    /// Packages by package manager, in the order of [`MANAGERS`].
    packages: [&'static str; 4],
}

/// The package managers we know, and how each installs.
const MANAGERS: [(&str, &str); 4] = [
    ("apt-get", "apt-get install -y --no-install-recommends"),
    ("brew", "brew install"),
    ("dnf", "dnf install"),
    ("pacman", "pacman -S"),
];

const BASE: &[Need] = &[
    Need {
        name: "cmake (it builds sentencepiece)",
        find: || project::find_program("cmake"),
        packages: ["cmake", "cmake", "cmake", "cmake"],
    },
    Need {
        name: "a C++ compiler",
        find: || ["c++", "g++", "clang++"].into_iter().find_map(project::find_program),
        packages: ["g++", "llvm", "gcc-c++", "gcc"],
    },
];

const MPI: &[Need] = &[
    Need {
        name: "Open MPI",
        find: || project::find_program("mpicc").and_then(|_| project::find_program("mpirun")),
        packages: ["libopenmpi-dev openmpi-bin", "open-mpi", "openmpi-devel", "openmpi"],
    },
    Need {
        name: "libclang (it reads MPI's headers)",
        find: find_libclang,
        packages: ["libclang-dev", "llvm", "clang-devel", "clang"],
    },
];

/// What the machine lets us do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Machine {
    /// Index into [`MANAGERS`].
    manager: Option<usize>,
    privilege: Privilege,
}

/// Whether packages may be installed from here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Privilege {
    /// As who we are.
    Own,
    /// With sudo, which asks for no password.
    Sudo,
    /// Not from here.
    None,
}

impl Machine {
    fn look(sh: &Shell) -> Self {
        let manager =
            MANAGERS.iter().position(|(program, _)| project::find_program(program).is_some());
        let succeeds = |command: xshell::Cmd<'_>| {
            command.quiet().ignore_stdout().ignore_stderr().run().is_ok()
        };
        let is_root = || cmd!(sh, "id -u").quiet().read().is_ok_and(|id| id.trim() == "0");
        let has_sudo =
            || project::find_program("sudo").is_some() && succeeds(cmd!(sh, "sudo -n true"));
        // Homebrew installs as the user it belongs to, and refuses root.
        let privilege = if manager == Some(1) || is_root() {
            Privilege::Own
        } else if has_sudo() {
            Privilege::Sudo
        } else {
            Privilege::None
        };
        Self { manager, privilege }
    }

    /// The command that installs `needs`, as a user would type it.
    fn command(self, needs: &[Need]) -> Option<String> {
        let manager = self.manager?;
        let mut command = String::new();
        if manager != 1 && self.privilege != Privilege::Own {
            command.push_str("sudo ");
        }
        command.push_str(MANAGERS[manager].1);
        for need in needs {
            command.push(' ');
            command.push_str(need.packages[manager]);
        }
        Some(command)
    }

    /// Only where the answer is known to be yes: apt-get and Homebrew.
    fn may_install(self) -> bool {
        matches!(self.manager, Some(0 | 1)) && self.privilege != Privilege::None
    }
}

fn missing(needs: &[Need]) -> Vec<Need> {
    needs.iter().filter(|need| (need.find)().is_none()).copied().collect()
}

fn install(sh: &Shell, needs: &[Need]) -> Result<()> {
    if needs.is_empty() {
        return Ok(());
    }
    let machine = Machine::look(sh);
    let Some(command) = machine.command(needs) else {
        bail!("missing: {}\nhelp: install it and put it into PATH", names(needs));
    };
    if !machine.may_install() {
        bail!("missing: {}\nhelp: run `{command}`, then this command again", names(needs));
    }
    eprintln!("setup: installing {}", names(needs));
    let failed = || format!("installing {}\nhelp: run `{command}` by hand", names(needs));
    if machine.manager == Some(0) {
        // A fresh machine has no package lists; a stale one may name files that are gone.
        let update = command.split(" install").next().unwrap_or_default().to_owned() + " update";
        run_words(sh, &update).with_context(failed)?;
    }
    run_words(sh, &command).with_context(failed)?;
    let missing = missing(needs);
    if !missing.is_empty() {
        bail!("`{command}` succeeded, but this is still missing: {}", names(&missing));
    }
    eprintln!("setup: installed {}", names(needs));
    Ok(())
}

fn run_words(sh: &Shell, command: &str) -> Result<()> {
    let mut words = command.split_whitespace();
    let program = words.next().context("an empty command")?;
    sh.cmd(program).args(words).env("DEBIAN_FRONTEND", "noninteractive").run()?;
    Ok(())
}

fn names(needs: &[Need]) -> String {
    needs.iter().map(|need| need.name).collect::<Vec<_>>().join(", ")
}

fn find_libclang() -> Option<PathBuf> {
    let mut folders: Vec<PathBuf> =
        project::variable("LIBCLANG_PATH").map(PathBuf::from).into_iter().collect();
    for parent in ["/usr/lib", "/opt/homebrew/opt/llvm", "/usr/local/opt/llvm"] {
        folders.push(PathBuf::from(parent).join("lib"));
        folders.extend(entries(Path::new(parent)));
        folders.extend(entries(Path::new(parent)).iter().map(|folder| folder.join("lib")));
    }
    folders.iter().flat_map(|folder| entries(folder)).find(|path| {
        path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("libclang"))
            && path.is_file()
            && [".so", ".dylib"].iter().any(|end| path.to_string_lossy().contains(end))
    })
}

/// What lies in a folder, sorted; nothing where there is no folder.
fn entries(folder: &Path) -> Vec<PathBuf> {
    let read = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let mut paths: Vec<PathBuf> = read.map(|entry| entry.path()).collect();
    paths.sort();
    paths
}

fn torch_environment(sh: &Shell) -> Result<PathBuf> {
    Ok(Project::load(sh)?.target.join("tch-venv"))
}

/// `lib/python3.X/site-packages/torch/lib` of a Python environment.
fn torch_libraries(venv: &Path) -> Option<PathBuf> {
    let mut folders =
        entries(&venv.join("lib")).into_iter().map(|f| f.join("site-packages/torch/lib"));
    folders.find(|folder| folder.is_dir())
}

fn make_torch_environment(sh: &Shell) -> Result<()> {
    let venv = torch_environment(sh)?;
    let python = venv.join("bin/python");
    if torch_libraries(&venv).is_some() {
        println!("found    {TORCH}: {}", venv.display());
    } else {
        let Some(system) = project::find_program("python3") else {
            bail!("missing: python3\nhelp: install Python 3.10 or later with its venv module");
        };
        cmd!(sh, "{system} -m venv {venv}").run().context(
            "making a Python environment\nhelp: on Debian and Ubuntu run `sudo apt-get install \
             python3-venv`",
        )?;
        // torch.utils.cpp_extension, which burn-tch's build script asks for paths, needs setuptools.
        cmd!(sh, "{python} -m pip install --disable-pip-version-check {TORCH} setuptools numpy")
            .run()
            .with_context(|| format!("installing {TORCH} into {}", venv.display()))?;
        println!("made     {}", venv.display());
    }
    println!("\n`cargo xtask train --device tch` uses it by itself. For cargo alone:");
    for (name, value) in torch_variables(sh)? {
        println!("export {name}=\"{}\"", value.to_string_lossy());
    }
    Ok(())
}

fn prepend(folder: &Path, variable: &str) -> Result<OsString> {
    let old = project::variable(variable).unwrap_or_default();
    let old = std::env::split_paths(&old).filter(|path| !path.as_os_str().is_empty());
    std::env::join_paths(std::iter::once(folder.to_path_buf()).chain(old))
        .with_context(|| format!("{} cannot stand in {variable}", folder.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_is_the_one_to_type() {
        let machine = |manager, privilege| Machine { manager, privilege };
        let debian = machine(Some(0), Privilege::None);
        assert_eq!(
            debian.command(BASE).unwrap(),
            "sudo apt-get install -y --no-install-recommends cmake g++"
        );
        assert!(!debian.may_install());
        assert_eq!(
            debian.command(MPI).unwrap(),
            "sudo apt-get install -y --no-install-recommends libopenmpi-dev openmpi-bin libclang-dev"
        );
        let root = machine(Some(0), Privilege::Own);
        assert_eq!(
            root.command(&BASE[..1]).unwrap(),
            "apt-get install -y --no-install-recommends cmake"
        );
        assert!(root.may_install());
        assert!(machine(Some(0), Privilege::Sudo).may_install());
        let mac = machine(Some(1), Privilege::Own);
        assert_eq!(mac.command(&BASE[..1]).unwrap(), "brew install cmake");
        assert!(mac.may_install());
        // Fedora and Arch: named, never run.
        assert_eq!(
            machine(Some(2), Privilege::None).command(BASE).unwrap(),
            "sudo dnf install cmake gcc-c++"
        );
        assert!(!machine(Some(3), Privilege::Own).may_install());
        assert_eq!(machine(None, Privilege::Own).command(BASE), None);
    }

    #[test]
    fn prepending_keeps_the_old_path() {
        let path = prepend(Path::new("/venv/bin"), "PATH").unwrap();
        let folders: Vec<PathBuf> = std::env::split_paths(&path).collect();
        assert_eq!(folders[0], Path::new("/venv/bin"));
        assert!(folders.len() > 1);
        assert!(prepend(Path::new("/a:b"), "PATH").is_err());
    }
}
