//! Starting the program alone and under `mpirun`, always with a limit of time.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// More than any run of these tests takes, also on a busy machine.
const TIME_LIMIT: Duration = Duration::from_secs(100);

/// The program, built with MPI.
pub(crate) const CARAVAN: &str = env!("CARGO_BIN_EXE_caravan");

/// A run of seconds on real text; the vocabulary holds every character of it.
pub(crate) const SETTINGS: &[&str] = &[
    "steps=30",
    "seq_len=32",
    "global_batch=12",
    "micro_batch=1",
    "vocab_size=400",
    "n_layers=2",
    "d_model=32",
    "n_heads=4",
    "n_kv_heads=2",
    "head_dim=8",
    "d_ff=64",
    "eval_every=15",
    "eval_tokens=2000",
    "checkpoint_every=3",
    "sample_tokens=4",
    "peak_lr=3e-3",
];

pub(crate) fn has_mpirun() -> bool {
    Command::new("mpirun").arg("--version").output().is_ok()
}

/// A folder with `text.txt`: a part of Shakespeare where it lies beside the sources, stories of the fixtures elsewhere.
pub(crate) fn folder() -> (tempfile::TempDir, PathBuf) {
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let shakespeare = sources.join("../shared/data/text/tinyshakespeare.txt");
    let text = std::fs::read_to_string(shakespeare)
        .or_else(|_| std::fs::read_to_string(sources.join("fixtures/stories.en.jsonl")))
        .expect("the fixtures are there");
    let whole_lines = text[..text.floor_char_boundary(150_000)].rsplit_once('\n').unwrap().0;
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("text.txt"), whole_lines).unwrap();
    let path = dir.path().to_path_buf();
    (dir, path)
}

/// The words of a run into `out`, or of going on with it once it has begun.
pub(crate) fn train_args<'a>(dir: &Path, out: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    let begins = ["train", "--text", "text.txt", "--out", out];
    let goes_on = ["train", "--resume", "--out", out];
    match dir.join(out).join("config.toml").exists() {
        true => [&goes_on[..], more].concat(),
        false => [&begins[..], SETTINGS, more].concat(),
    }
}

/// A program and all that it says.
pub(crate) struct Running {
    child: Child,
    readers: Vec<std::thread::JoinHandle<String>>,
}

/// How it ended.
pub(crate) struct Ended {
    pub(crate) status: ExitStatus,
    /// Standard output and error.
    pub(crate) text: String,
    /// Whether the launcher had to be killed when its ranks were gone.
    pub(crate) launcher_stayed: bool,
}

/// The program on one rank, without `mpirun`.
pub(crate) fn alone(dir: &Path, args: &[&str]) -> Ended {
    let mut command = Command::new(CARAVAN);
    Running::start(command.current_dir(dir).args(args)).end()
}

/// `mpirun` with the program on so many ranks.
pub(crate) fn over_mpi(dir: &Path, n_ranks: usize, args: &[&str]) -> Running {
    let n = n_ranks.to_string();
    let words =
        [&["-n", n.as_str(), CARAVAN], args, &["--transport", "mpi", "--ranks", &n]].concat();
    mpirun(dir, &words)
}

/// `mpirun` with any words.
pub(crate) fn mpirun(dir: &Path, words: &[&str]) -> Running {
    let mut command = Command::new("mpirun");
    command.args(["--oversubscribe", "--bind-to", "none", "--allow-run-as-root"]);
    // More ranks than cores: one thread for each.
    command.args(["-x", "RAYON_NUM_THREADS=1"]);
    Running::start(command.current_dir(dir).args(words))
}

impl Running {
    fn start(command: &mut Command) -> Self {
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("the program starts");
        let pipes: [Box<dyn Read + Send>; 2] =
            [Box::new(child.stdout.take().unwrap()), Box::new(child.stderr.take().unwrap())];
        let readers = pipes.into_iter().map(|mut pipe| {
            std::thread::spawn(move || {
                let mut bytes = Vec::new();
                let _ = pipe.read_to_end(&mut bytes);
                String::from_utf8_lossy(&bytes).into_owned()
            })
        });
        let readers = readers.collect();
        Self { child, readers }
    }

    /// The process of the launcher.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn has_ended(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }

    /// The process of a rank, once it runs; none if the launcher has ended.
    pub(crate) fn rank(&mut self, rank: usize) -> Option<u32> {
        let variable = format!("OMPI_COMM_WORLD_RANK={rank}");
        while !self.has_ended() {
            let found = children(self.pid()).into_iter().find(|pid| {
                let variables = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
                variables.split(|byte| *byte == 0).any(|word| word == variable.as_bytes())
            });
            if found.is_some() {
                return found;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        None
    }

    /// Waits for the end, which must come in time.
    pub(crate) fn end(mut self) -> Ended {
        let begun = Instant::now();
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            if begun.elapsed() > TIME_LIMIT {
                signal(self.pid(), "TERM");
                panic!("no end in {TIME_LIMIT:?}");
            }
            std::thread::sleep(Duration::from_millis(5));
        };
        let text = self.readers.into_iter().map(|reader| reader.join().unwrap()).collect();
        Ended { status, text, launcher_stayed: false }
    }
}

impl Ended {
    /// Expects success; gives what was said.
    pub(crate) fn ok(self) -> String {
        assert!(self.status.success(), "{}\n{}", self.status, self.text);
        self.text
    }
}

/// Processes that `pid` started.
pub(crate) fn children(pid: u32) -> Vec<u32> {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let lists = tasks.filter_map(|task| std::fs::read_to_string(task.path().join("children")).ok());
    lists
        .flat_map(|list| {
            list.split_whitespace().map(|pid| pid.parse().unwrap()).collect::<Vec<_>>()
        })
        .collect()
}

/// Sends a signal; gives whether there was somebody to get it.
pub(crate) fn signal(pid: u32, name: &str) -> bool {
    let kill = Command::new("kill").args([&format!("-{name}"), &pid.to_string()]).output();
    kill.expect("kill").status.success()
}

/// Numbers that look random.
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) fn new() -> Self {
        // Another one on every call, as a rank may die at any time; what it was is said where it matters.
        let now = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap();
        Self(now.as_nanos() as u64)
    }

    /// From 0 to below 1.
    pub(crate) fn roll(&mut self) -> f64 {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as f64 / f64::from(1_u32 << 31)
    }
}

/// The exported weights of a run.
pub(crate) fn weights(run: &Path) -> Vec<u8> {
    std::fs::read(run.join("export/model.safetensors")).expect("an export")
}

/// Of every step its number, tokens, losses and norm.
pub(crate) fn rows(run: &Path) -> Vec<[serde_json::Value; 5]> {
    let text = std::fs::read_to_string(run.join("metrics.jsonl")).expect("metrics");
    let row = |line: &str| {
        let row: serde_json::Value = serde_json::from_str(line).expect("JSON");
        ["step", "tokens", "train_loss", "val_loss", "grad_norm"].map(|key| row[key].clone())
    };
    text.lines().map(row).collect()
}
