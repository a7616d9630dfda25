//! `coordinator serve`: a coordinator that workers join and clients submit jobs to, in the foreground.

mod addresses;
mod drain;
mod jobs;
mod keys;

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use asyncdiff_common::exit::ExitCode;
use asyncdiff_transport::identity::{ClientLine, ClusterAuthority, StateDir};
use asyncdiff_transport::quic::{QuicConfig, QuicNode};
use clap::Args;

use super::signals::Signals;
use super::store::open_store;
use crate::api::{ApiServer, ClusterService, Inviter};
use crate::cli::{Failure, default_state_dir, note, print_line};
use crate::cluster::{Cluster, ClusterConfig};
use crate::serve_config::ServeConfig;
use addresses::{advertised_hosts, coordinator_addresses, local_client_address};
use jobs::OnDamage;

/// How long connections may take to end after everything else has.
const CLOSING: Duration = Duration::from_secs(5);

/// Arguments of `serve`. They override the file.
#[derive(Args, Debug)]
pub(crate) struct ServeArgs {
    /// Configuration file; coordinator/default.toml explains every key
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,

    /// The checkpoint: a folder in the diffusers layout or a hub id [default: the embedded demo model]
    #[arg(long, value_name = "PATH|HUB_ID", env = "ASYNCDIFF_MODEL")]
    model: Option<String>,

    /// Address at which workers reach this coordinator [default: all of this machine's]
    #[arg(long, value_name = "IP")]
    listen: Option<IpAddr>,

    /// Where clients reach the API: plain HTTP on loopback, TLS elsewhere [default: 127.0.0.1:7402]
    #[arg(long, value_name = "ADDR:PORT")]
    api: Option<SocketAddr>,

    /// Where keys, tokens, jobs and the client line are kept [default: ~/.local/state/asyncdiff/coordinator]
    #[arg(long, value_name = "DIR", env = "ASYNCDIFF_STATE_DIR")]
    state_dir: Option<PathBuf>,

    /// If the database of jobs is damaged, move it aside and go on with the jobs that can be read from it
    #[arg(long)]
    recover_jobs: bool,
}

/// Serves until Ctrl-C or SIGTERM.
pub(crate) async fn run(args: ServeArgs) -> Result<ExitCode, Failure> {
    let mut signals = Signals::new()?;
    let on_damage = if args.recover_jobs { OnDamage::Recover } else { OnDamage::Refuse };
    let server = tokio::select! {
        server = Server::start(configuration(args)?, on_damage) => server?,
        () = signals.next() => return Err(Failure::interrupted("interrupted while starting")),
    };
    server.introduce()?;
    signals.next().await;
    server.stop(&mut signals).await;
    Ok(ExitCode::Ok)
}

fn configuration(args: ServeArgs) -> Result<ServeConfig, Failure> {
    let mut config = ServeConfig::load(args.config.as_deref())?;
    config.model = args.model.or(config.model);
    config.cluster.listen = args.listen.unwrap_or(config.cluster.listen);
    config.api_listen = args.api.unwrap_or(config.api_listen);
    config.state_dir = args.state_dir.or(config.state_dir);
    Ok(config)
}

/// Everything that runs.
struct Server {
    config: ServeConfig,
    cluster: Arc<Cluster>,
    service: Arc<ClusterService>,
    api: ApiServer,
    inviter: Inviter,
    client_line: ClientLine,
    state: Arc<StateDir>,
}

impl Server {
    async fn start(config: ServeConfig, on_damage: OnDamage) -> Result<Self, Failure> {
        let folder = match &config.state_dir {
            Some(folder) => folder.clone(),
            None => default_state_dir()?,
        };
        let store = open_store(config.model.clone()).await?;
        let state = Arc::new(StateDir::open(folder)?);
        let jobs = jobs::open(&state, on_damage).await?;
        let authority = Arc::new(ClusterAuthority::open(Arc::clone(&state))?);
        let node = QuicNode::start(quic_config(&config, &authority)?).await.map_err(Failure::operator)?;
        let hosts = advertised_hosts(&config.cluster);
        let addresses = coordinator_addresses(&hosts, node.control_address().port(), node.data_address().port());
        let network = Arc::new(node);
        let limits = config.limits.clone();
        let cluster = Arc::new(Cluster::start(ClusterConfig { network, store, jobs: Some(jobs), limits }).await?);
        let inviter = || Inviter {
            authority: Arc::clone(&authority),
            addresses: addresses.clone(),
            valid_for: config.join_line_valid_for,
        };
        let service = Arc::new(ClusterService::new(Arc::clone(&cluster), config.job_defaults(), Some(inviter())));
        let token = keys::bearer_token(&state)?;
        let plain = config.api_listen.ip().is_loopback();
        let tls = if plain { None } else { Some(authority.api_server_config(&hosts)?) };
        let api = ApiServer::start(config.api_listen, tls, service.clone(), token.clone(), &config.api_limits)?;
        let line = |address| ClientLine {
            address,
            authority: (!plain).then(|| authority.fingerprint()),
            bearer_token: token.secret().to_owned(),
        };
        keys::write_client_line(&state, &line(local_client_address(api.address())))?;
        let client_line = line(addresses::client_address(api.address(), &hosts));
        Ok(Self { cluster, service, inviter: inviter(), api, client_line, state, config })
    }

    /// Says on stdout what others need to know.
    fn introduce(&self) -> Result<(), Failure> {
        let join = self.inviter.invite(self.config.join_line_valid_for)?;
        let valid_for = in_words(self.config.join_line_valid_for);
        let reach = match self.client_line.authority {
            Some(_) => "clients on other machines need this line (keep it secret); clients here find it by themselves",
            None => "clients on this machine find this line by themselves; others cannot reach it (see api.listen)",
        };
        print_line(&format!(
            "coordinator: {}\n\nworkers join with this line, valid for {valid_for}:\n\n  worker join {}\n\n{reach}:\n\n  \
             export ASYNCDIFF_CONNECT={}\n",
            self.cluster.store().name(),
            join.line,
            self.client_line
        ))?;
        tracing::info!(api = %self.api.address(), state = %self.state.path().display(), "serving");
        Ok(())
    }

    /// Lets running jobs finish, then ends everything in order.
    async fn stop(self, signals: &mut Signals) {
        note("stopping: waiting for running jobs (Ctrl-C again ends at once)");
        self.service.drain();
        tokio::select! {
            () = drain::finish_jobs(&self.cluster, self.config.drain) => {}
            () = signals.next() => {}
        }
        keys::forget_client_line(&self.state);
        let Self { cluster, service, api, .. } = self;
        api.stop(CLOSING).await;
        drop(service);
        // The API's handlers have ended with it; if one is left over, dropping the cluster ends it too.
        if let Some(cluster) = Arc::into_inner(cluster) {
            cluster.shutdown(CLOSING).await;
        }
    }
}

/// As a configuration writes it: `24h`, `90m`, `45s`.
fn in_words(duration: Duration) -> String {
    match duration.as_secs() {
        seconds if seconds.is_multiple_of(3600) => format!("{}h", seconds / 3600),
        seconds if seconds.is_multiple_of(60) => format!("{}m", seconds / 60),
        seconds => format!("{seconds}s"),
    }
}

fn quic_config(config: &ServeConfig, authority: &Arc<ClusterAuthority>) -> Result<QuicConfig, Failure> {
    let listen = config.cluster.listen;
    Ok(QuicConfig {
        control_address: SocketAddr::new(listen, config.cluster.control_port),
        data_address: SocketAddr::new(listen, config.cluster.data_port),
        enrolment: Some(authority.clone()),
        ..QuicConfig::new(authority.coordinator_identity()?, listen)
    })
}
