//! A server of HTTP over TLS that does whatever a test wants with a connection, one thread for each.

use std::{
    io::{self, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use rustls::{ServerConfig, ServerConnection, StreamOwned};

/// A request that arrived.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) body: Vec<u8>,
}

/// A connection, with or without TLS.
pub(crate) trait Connection: Read + Write + Send {}
impl<T: Read + Write + Send> Connection for T {}

type Behave = dyn Fn(&Request, &mut dyn Connection) -> io::Result<()> + Send + Sync;

/// It serves until it is dropped.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    requests: Arc<Mutex<Vec<Request>>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// Serves on `address`, whose port may be 0; plain HTTP without `tls`. Each request is given to `behave`, which writes
    /// the answer; the connection ends when it returns.
    pub(crate) fn start(
        address: &str,
        tls: Option<Arc<ServerConfig>>,
        behave: impl Fn(&Request, &mut dyn Connection) -> io::Result<()> + Send + Sync + 'static,
    ) -> Server {
        let listener = TcpListener::bind(address).unwrap();
        let address = listener.local_addr().unwrap();
        let (requests, stop) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicBool::new(false)));
        let (seen, stopped, behave): (_, _, Arc<Behave>) = (requests.clone(), stop.clone(), Arc::new(behave));
        let serve = move || {
            for stream in listener.incoming() {
                if stopped.load(Ordering::SeqCst) {
                    return;
                }
                let (tls, seen, behave) = (tls.clone(), seen.clone(), behave.clone());
                // A client that goes away is no fault of the test.
                thread::spawn(move || stream.and_then(|stream| connection(stream, tls, &seen, &*behave)));
            }
        };
        Server { address, requests, stop, thread: Some(thread::spawn(serve)) }
    }

    /// Its address, as the agent is given it.
    pub(crate) fn url(&self) -> String {
        format!("https://{}", self.address)
    }

    /// What arrived so far.
    pub(crate) fn requests(&self) -> Vec<Request> {
        self.requests.lock().unwrap().clone()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(self.address);
        self.thread.take().unwrap().join().unwrap();
    }
}

fn connection(
    stream: TcpStream,
    tls: Option<Arc<ServerConfig>>,
    seen: &Mutex<Vec<Request>>,
    behave: &Behave,
) -> io::Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(60)))?;
    let mut stream: Box<dyn Connection> = match tls {
        Some(config) => {
            let session = ServerConnection::new(config).map_err(io::Error::other)?;
            Box::new(StreamOwned::new(session, stream))
        }
        None => Box::new(stream),
    };
    let request = read_request(&mut *stream)?;
    seen.lock().unwrap().push(request.clone());
    behave(&request, &mut *stream)?;
    stream.flush()
}

fn read_request(stream: &mut dyn Connection) -> io::Result<Request> {
    let head = read_head(stream)?;
    let mut first = head.lines().next().unwrap_or_default().split(' ').map(str::to_owned);
    let (method, path) = (first.next().unwrap_or_default(), first.next().unwrap_or_default());
    let length = header(&head, "content-length").and_then(|value| value.parse().ok()).unwrap_or(0);
    let mut body = vec![0; length];
    stream.read_exact(&mut body)?;
    Ok(Request { method, path, body })
}

/// Reads up to the empty line.
pub(crate) fn read_head(stream: &mut (impl Read + ?Sized)) -> io::Result<String> {
    let (mut head, mut byte) = (Vec::new(), [0]);
    while !head.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte)?;
        head.push(byte[0]);
        if head.len() > 64 << 10 {
            return Err(io::Error::other("too long"));
        }
    }
    Ok(String::from_utf8_lossy(&head).into_owned())
}

/// The value of a header.
pub(crate) fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    let mut lines = head.lines().filter_map(|line| line.split_once(':'));
    lines.find(|(found, _)| found.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim())
}

/// Writes a whole answer.
pub(crate) fn answer(
    stream: &mut dyn Connection,
    status: &str,
    headers: &str,
    body: &[u8],
) -> io::Result<()> {
    let length = body.len();
    write!(stream, "HTTP/1.1 {status}\r\nContent-Length: {length}\r\nConnection: close\r\n{headers}\r\n")?;
    stream.write_all(body)
}
