//! The engine behind HTTP, as clients of others' services expect it.
//!
//! ```text
//! lib.rs       listen, and end in an orderly way
//! app.rs       paths, and what every request goes through
//! away.rs      work that takes its time, away from connections
//! guard.rs     who may ask
//! fields.rs    what a request may say; one table a dialect
//! dialect/     requests become an Ask, answers become replies
//! work.rs      threads that compute answers; the line before them
//! said.rs      what they say of them
//! hold.rs      grammars for answers, and for the calls in them
//! grammars.rs  those that were compiled lately
//! replay.rs    what the model wrote when it called tools, to show it again
//! likely.rs    how likely tokens were, in step with the text that they become
//! socket.rs    whether a client is still there
//! tls.rs       the certificate, and the handshake
//! seal.rs      reasoning that clients keep for us
//! reply.rs     answers on their way out, whole or as a stream
//! openapi.rs   the interface, described from the tables of fields
//! page.rs      the chat page
//! metrics.rs   what a slow answer was slow at
//! log.rs       a line for every request, for whoever runs the server
//! trace/       what is said and answered, in a file
//! outbox.rs    lines on their way to a slow place
//! ```
//!
//! Connections are tokio's, on a few threads; the engine's work has threads of its own, so that neither waits for the other. A
//! request is an [`ask::Ask`] in a line; its answer comes through a channel. A client that goes away closes the channel, and
//! the work for it ends with the layer or the token that is being computed; what was computed of its prompt is kept.
#![forbid(unsafe_code)]

mod app;
mod ask;
mod away;
mod dialect;
mod error;
mod fields;
mod grammars;
mod guard;
mod hold;
mod likely;
mod log;
mod metrics;
mod openapi;
mod outbox;
mod page;
mod replay;
mod reply;
mod said;
mod seal;
mod socket;
mod tls;
mod trace;
mod work;

use std::{
    io,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use axum::Router;
use engine::{Engine, SamplerOptions, Session};
use hyper::{
    Request,
    body::Incoming,
    server::conn::http1,
    service::{Service as _, service_fn},
};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::graceful::{GracefulConnection, GracefulShutdown},
    service::TowerToHyperService,
};
use tokio::{
    net::{TcpListener, TcpStream},
    runtime::Runtime,
    sync::{Semaphore, watch},
    time::{sleep, timeout},
};
use tokio_io_timeout::TimeoutStream;

use crate::{
    app::{App, Model},
    log::Teller,
    metrics::Metrics,
    seal::Sealer,
    socket::Socket,
    work::Work,
};
pub use crate::{
    guard::Access,
    log::Log,
    tls::{Tls, TlsError},
    trace::{Trace, TraceError},
};

/// How to serve.
#[derive(Debug)]
pub struct Options {
    /// Who may ask.
    pub access: Access,
    /// The model's name for clients.
    pub name: String,
    /// Other names that it answers to. If there are none, it answers to every name.
    pub aliases: Vec<String>,
    /// How tokens are chosen where a request does not say.
    pub sampling: SamplerOptions,
    /// The seed of such requests; each has its own if there is none.
    pub seed: Option<u64>,
    /// The most tokens of reasoning where a request does not say; as many as there are if there is none.
    pub n_reasoning_max: Option<usize>,
    /// The most requests that wait for a session.
    pub n_waiting_max: usize,
    /// The most connections at a time.
    pub n_connections_max: usize,
    /// The folder of the key that reasoning is sealed with. Without one, what was sealed means nothing after a restart.
    pub key_dir: Option<PathBuf>,
    /// What names of metrics begin with.
    pub prefix: String,
    /// What is told of requests.
    pub log: Log,
    /// Who is told of them, and of what clients are not told, line by line. It may take its time: nobody waits for it.
    pub tell: fn(&str),
    /// Where what is said and answered is written, if anywhere.
    pub trace: Option<Trace>,
    /// What connections are made safe with, if they are.
    pub tls: Option<Tls>,
}

/// Time for a handshake.
const HANDSHAKE_TIME: Duration = Duration::from_secs(10);
/// Time for the head of a request.
const HEAD_TIME: Duration = Duration::from_secs(10);
/// Time in which a client takes some bytes, at least.
const WRITE_TIME: Duration = Duration::from_secs(30);
/// Time for answers that are under way at the end.
const DRAIN_TIME: Duration = Duration::from_secs(30);
/// Time for what is on its way out when no request is under way any more, and again while clients have not taken it all.
const LAST_BYTES_TIME: Duration = Duration::from_secs(1);
/// The most bytes of a request's head.
const HEAD_BYTES_MAX: usize = 64 << 10;
/// Threads that serve connections.
const N_THREADS: usize = 2;

/// A server that listens.
pub struct Server {
    runtime: Runtime,
    listener: TcpListener,
    address: SocketAddr,
    app: Arc<App>,
    tls: Option<Tls>,
    n_connections_max: usize,
    ask_end: Arc<watch::Sender<bool>>,
}

/// Ends a server from elsewhere.
#[derive(Clone)]
pub struct Ending(Arc<watch::Sender<bool>>);

impl Ending {
    /// Has the server take no more requests, complete what is under way, and end.
    pub fn ask(&self) {
        self.0.send_replace(true);
    }
}

impl Server {
    /// Answers what comes to `listener`, once it runs.
    ///
    /// # Errors
    /// The system has no threads, or the listener is none of it.
    ///
    /// # Panics
    /// If there is no session.
    pub fn new(
        engine: Engine,
        sessions: Vec<Session>,
        listener: std::net::TcpListener,
        options: Options,
    ) -> io::Result<Server> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(N_THREADS).enable_all().build()?;
        listener.set_nonblocking(true)?;
        let listener = runtime.block_on(async { TcpListener::from_std(listener) })?;
        let address = listener.local_addr()?;
        let engine = Arc::new(engine);
        let metrics = Arc::new(Metrics::new(&options.prefix));
        let teller = Arc::new(Teller::start(options.log, options.tell, options.trace)?);
        let sealer = Arc::new(Sealer::new(sealing_key(options.key_dir.as_deref(), &teller)));
        let work = Work::start(engine.clone(), sessions, options.n_waiting_max, metrics.clone(), teller.clone());
        let model = Model {
            fingerprint: format!("{}-{}", env!("CARGO_PKG_VERSION"), engine.info().file_bytes),
            n_ctx: work.n_ctx(),
            created_s: dialect::now_s(),
            engine: engine.clone(),
            name: options.name,
            aliases: options.aliases,
            sampling: options.sampling,
            seed: options.seed,
            n_reasoning_max: options.n_reasoning_max,
            sealer,
        };
        let ask_end = Arc::new(watch::Sender::new(false));
        let app = Arc::new(App {
            engine,
            work,
            model,
            access: options.access,
            metrics,
            teller,
            room: Arc::new(Semaphore::new(app::N_ROOM)),
            readers: Arc::new(Semaphore::new(app::N_READERS)),
            compilers: Arc::new(Semaphore::new(app::N_COMPILERS)),
            places_to_compile: Arc::new(Semaphore::new(app::N_COMPILED_MAX)),
            under_way: watch::Sender::new(0),
            n_behind: Arc::default(),
            ending: ask_end.subscribe(),
        });
        let (tls, n_connections_max) = (options.tls, options.n_connections_max);
        Ok(Server { runtime, listener, address, app, tls, n_connections_max, ask_end })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What ends it.
    pub fn ending(&self) -> Ending {
        Ending(self.ask_end.clone())
    }

    /// Serves until it is asked to end, or by `SIGTERM`, and calls `ending` then. Answers that are under way have half a minute to be
    /// completed; what was computed for them is kept.
    pub fn run(self, ending: impl FnOnce()) {
        let Server { runtime, listener, app, tls, n_connections_max, ask_end, .. } = self;
        runtime.spawn(end_when_terminated(Ending(ask_end.clone())));
        let open = runtime.block_on(serve(listener, &app, tls, n_connections_max, ask_end.subscribe()));
        ending();
        app.work.end();
        runtime.block_on(drain(open, &app));
        app.work.join();
        app.engine.flush();
        runtime.shutdown_timeout(Duration::from_secs(1)); // replies that are cut off are told of
        app.teller.flush();
    }
}

/// The key that is kept, or where it cannot be, one for this run.
fn sealing_key(dir: Option<&Path>, teller: &Teller) -> [u8; 32] {
    let fresh: [u8; 32] = rand::random();
    let kept = dir.map(|dir| engine::kept_key(dir, fresh));
    kept.unwrap_or(Ok(fresh)).unwrap_or_else(|error| {
        let (what, hint) = ("the key for reasoning is not kept, and will be another one in the next run", error.hint());
        teller.warn(&format!("{what}: {error}; {hint}"));
        fresh
    })
}

/// Whether an address is this machine's alone.
pub fn is_local(ip: IpAddr) -> bool {
    ip.is_loopback()
}

/// Has the server end when the system wants it to: also where `nohup` keeps whoever else listens from doing so.
async fn end_when_terminated(ending: Ending) {
    #[cfg(unix)]
    if let Ok(mut terminated) = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()) {
        terminated.recv().await;
        ending.ask();
    }
    #[cfg(not(unix))]
    drop(ending);
}

/// Takes connections until the end is asked for; returns those that are open.
async fn serve(
    listener: TcpListener,
    app: &Arc<App>,
    tls: Option<Tls>,
    n_max: usize,
    mut end: watch::Receiver<bool>,
) -> GracefulShutdown {
    let router = app::router(app.clone());
    let (places, graceful) = (Arc::new(Semaphore::new(n_max)), GracefulShutdown::new());
    loop {
        let place = tokio::select! {
            place = places.clone().acquire_owned() => place.expect("it is never closed"),
            _ = end.wait_for(|end| *end) => break,
        };
        let stream = tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                // Out of descriptors, for one: those that are open will free some.
                Err(_) => { sleep(Duration::from_millis(50)).await; continue }
            },
            _ = end.wait_for(|end| *end) => break,
        };
        let (app, router, tls, watcher) = (app.clone(), router.clone(), tls.clone(), graceful.watcher());
        tokio::spawn(async move {
            let _open = app.metrics.connected();
            let _place = place;
            let Some(socket) = socket(stream, tls, app.n_behind.clone()).await else { return };
            tokio::select! {
                _ = watcher.watch(connection(socket.clone(), router)) => {} // who was cut off knows it
                () = socket.gone() => {}
            }
        });
    }
    graceful
}

/// Waits for requests that are under way and for answers on their way, and cuts them off in the end. Connections without one are not
/// waited for: some say half a request and no more.
async fn drain(open: GracefulShutdown, app: &Arc<App>) {
    let mut under_way = app.under_way.subscribe();
    let idle = async {
        loop {
            let _ = under_way.wait_for(|n| *n == 0).await; // the sender is ours
            sleep(LAST_BYTES_TIME).await;
            if app.n_behind.load(Ordering::Relaxed) == 0 {
                return;
            }
        }
    };
    let done = async {
        tokio::select! {
            () = open.shutdown() => {}
            () = idle => {}
        }
    };
    if timeout(DRAIN_TIME, done).await.is_err() {
        app.work.stop();
        sleep(Duration::from_millis(500)).await; // they are told
    }
}

/// What a client is heard and answered through; `None` if it does not get so far.
async fn socket(stream: TcpStream, tls: Option<Tls>, n_behind: Arc<AtomicUsize>) -> Option<Socket> {
    match tls {
        None => Some(Socket::plain(stream, n_behind)),
        Some(tls) => timeout(HANDSHAKE_TIME, Socket::tls(stream, &tls, n_behind)).await.ok()?,
    }
}

/// Serves a connection's requests, one after another.
fn connection(socket: Socket, router: Router) -> impl GracefulConnection {
    let mut stream = TimeoutStream::new(socket.clone());
    stream.set_write_timeout(Some(WRITE_TIME));
    let router = TowerToHyperService::new(router);
    let service = service_fn(move |request: Request<Incoming>| {
        socket.requested(request.version());
        router.call(request)
    });
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(HEAD_TIME).half_close(true);
    http.max_header_size(HEAD_BYTES_MAX).max_buf_size(HEAD_BYTES_MAX);
    http.serve_connection(TokioIo::new(Box::pin(stream)), service)
}
