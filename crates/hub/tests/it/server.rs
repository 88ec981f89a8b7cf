//! A hub of one repository on this machine, which speaks as much of the protocol as a download needs.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

/// The commit that every file is of.
pub(crate) const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// Files by name: the tag that the server gives them, and their bytes.
type Files = BTreeMap<String, (String, Vec<u8>)>;

/// A running server.
#[derive(Debug)]
pub(crate) struct Server {
    /// Where it listens.
    pub(crate) endpoint: String,
    /// Requests so far: `path range`.
    pub(crate) asked: Arc<Mutex<Vec<String>>>,
    /// Bytes of a file that are sent before the connection breaks; each break is taken from the list.
    pub(crate) breaks: Arc<Mutex<Vec<usize>>>,
}

impl Server {
    /// Serves `files` as the repository `owner/name`.
    pub(crate) fn start(files: &[(&str, &str, &[u8])]) -> Self {
        let files: Files = files
            .iter()
            .map(|(name, tag, bytes)| ((*name).to_owned(), ((*tag).to_owned(), bytes.to_vec())))
            .collect();
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let endpoint = format!("http://{}", listener.local_addr().expect("an address"));
        let (asked, breaks) = (Arc::default(), Arc::default());
        let server = Self { endpoint, asked: Arc::clone(&asked), breaks: Arc::clone(&breaks) };
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                answer(stream, &files, &asked, &breaks);
            }
        });
        server
    }
}

fn answer(
    mut stream: TcpStream,
    files: &Files,
    asked: &Mutex<Vec<String>>,
    breaks: &Mutex<Vec<usize>>,
) {
    let mut lines = BufReader::new(stream.try_clone().expect("a handle")).lines();
    let first = lines.next().and_then(Result::ok).unwrap_or_default();
    let path = first.split(' ').nth(1).unwrap_or_default().to_owned();
    let mut range = None;
    for line in lines.map_while(Result::ok).take_while(|line| !line.is_empty()) {
        if let Some(value) = line.to_lowercase().strip_prefix("range: bytes=") {
            range = Some(value.to_owned());
        }
    }
    asked.lock().expect("no panic").push(format!("{path} {}", range.clone().unwrap_or_default()));
    let head = |status: &str, n: usize, more: &str| {
        format!("HTTP/1.1 {status}\r\nContent-Length: {n}\r\nConnection: close\r\n{more}\r\n")
    };
    let Some(path) = path.strip_prefix("/api/models/owner/name/revision/main").map_or_else(
        || path.strip_prefix("/owner/name/resolve/main/").map(str::to_owned),
        |_| Some(String::new()),
    ) else {
        let status = if path.contains("secret") { "401 Unauthorized" } else { "404 Not Found" };
        let _ = stream.write_all(head(status, 0, "").as_bytes());
        return;
    };
    if path.is_empty() {
        let names: Vec<String> =
            files.keys().map(|name| format!("{{\"rfilename\": \"{name}\"}}")).collect();
        let body = format!("{{\"siblings\": [{}], \"sha\": \"{COMMIT}\"}}", names.join(", "));
        let _ = stream.write_all((head("200 OK", body.len(), "") + &body).as_bytes());
        return;
    }
    let Some((tag, bytes)) = files.get(&path) else {
        let _ = stream.write_all(head("404 Not Found", 0, "").as_bytes());
        return;
    };
    let (from, to) = range.as_deref().and_then(|range| range.split_once('-')).map_or(
        (0, bytes.len()),
        |(from, to)| {
            let to = to.parse::<usize>().map_or(bytes.len(), |to| bytes.len().min(to + 1));
            (from.parse().unwrap_or(0), to)
        },
    );
    if from >= bytes.len() {
        let _ = stream.write_all(head("416 Range Not Satisfiable", 0, "").as_bytes());
        return;
    }
    let more = format!(
        "ETag: \"{tag}\"\r\nX-Repo-Commit: {COMMIT}\r\nContent-Range: bytes {from}-{}/{}\r\n",
        to.saturating_sub(1),
        bytes.len()
    );
    let _ = stream.write_all(head("206 Partial Content", to - from, &more).as_bytes());
    let mut body = &bytes[from..to];
    if body.len() > 1
        && let Some(n) = breaks.lock().expect("no panic").pop()
    {
        body = &body[..n.min(body.len())];
    }
    let _ = stream.write_all(body);
}
