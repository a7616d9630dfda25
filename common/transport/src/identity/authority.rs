//! The coordinator's side of trust: it owns the cluster's authority, invites workers and signs their certificates.

use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use super::certificate::{CertificateAuthority, PublicKey, new_key};
use super::limiter::AttemptLimiter;
use super::node::load_key;
use super::registry::Registry;
use super::tls;
use super::token::unix_seconds;
use super::{
    CoordinatorAddress, EnrolRefusal, EnrolRequest, Enrolled, Fingerprint, Identity, IdentityError, JoinToken, Secret,
    StateDir, TokenId, TokenStatus,
};
use crate::{PeerName, WorkerName};

const KEY_FILE: &str = "authority-key.pem";
const CERTIFICATE_FILE: &str = "authority-certificate.der";
const REGISTRY_FILE: &str = "registry.json";

/// The cluster's authority with its book of tokens and workers.
///
/// Methods write to disk when they change the book: call them where blocking for some milliseconds is allowed.
pub struct ClusterAuthority {
    signer: CertificateAuthority,
    book: Mutex<Book>,
    state: Option<Arc<StateDir>>,
}

#[derive(Default)]
struct Book {
    registry: Registry,
    limiter: AttemptLimiter,
}

impl ClusterAuthority {
    /// The authority of that directory, made on first use.
    pub fn open(state: Arc<StateDir>) -> Result<Self, IdentityError> {
        let signer = match (load_key(&state, KEY_FILE)?, state.read(CERTIFICATE_FILE)?) {
            (Some(key), Some(certificate)) => CertificateAuthority::load(key, certificate.into())?,
            // The certificate is written last: without it nobody has ever trusted the key.
            (_, None) => {
                let key = new_key()?;
                state.write(KEY_FILE, key.serialize_pem().as_bytes())?;
                let signer = CertificateAuthority::new(key)?;
                state.write(CERTIFICATE_FILE, signer.certificate())?;
                signer
            }
            (None, Some(_)) => return Err(state.damaged(KEY_FILE, "it is missing beside its certificate").into()),
        };
        let registry = match state.read(REGISTRY_FILE)? {
            Some(json) => serde_json::from_slice(&json).map_err(|error| state.damaged(REGISTRY_FILE, error))?,
            None => Registry::default(),
        };
        let book = Mutex::new(Book { registry, limiter: AttemptLimiter::default() });
        Ok(Self { signer, book, state: Some(state) })
    }

    /// An authority that lives as long as this value: for clusters that are started and ended by one command, and for
    /// tests.
    pub fn ephemeral() -> Result<Self, IdentityError> {
        Ok(Self { signer: CertificateAuthority::new(new_key()?)?, book: Mutex::default(), state: None })
    }

    /// By which others recognise this cluster.
    #[must_use]
    pub fn fingerprint(&self) -> Fingerprint {
        Fingerprint::of(self.signer.certificate())
    }

    /// The coordinator's own identity, with a new key each time: nobody needs to recognise the key, only the name.
    pub fn coordinator_identity(&self) -> Result<Identity, IdentityError> {
        self.identity(&PeerName::Coordinator)
    }

    /// An identity for a worker in the coordinator's own process. Other workers enrol, so that their keys stay theirs.
    pub fn local_worker_identity(&self, name: &WorkerName) -> Result<Identity, IdentityError> {
        self.identity(&PeerName::Worker(name.clone()))
    }

    /// TLS for the client API: certified for [`API_SERVER_NAME`](super::API_SERVER_NAME) and for the given names and
    /// addresses. Clients need no certificate.
    pub fn api_server_config(&self, names: &[String]) -> Result<rustls::ServerConfig, IdentityError> {
        let key = new_key()?;
        let names: Vec<String> =
            std::iter::once(tls::API_SERVER_NAME.to_owned()).chain(names.iter().cloned()).collect();
        let certificate = self.signer.sign_server(&names, &key)?;
        let chain = vec![certificate, self.signer.certificate().clone()];
        tls::api_server_config(chain, key.serialize_der())
    }

    /// Makes a token that lets any number of workers in until it expires or is revoked.
    pub fn invite(&self, addresses: Vec<CoordinatorAddress>, valid_for: Duration) -> Result<JoinToken, IdentityError> {
        let now = unix_seconds(SystemTime::now());
        let expires_at = now.saturating_add(valid_for.as_secs());
        let authority = self.fingerprint();
        let token = JoinToken { addresses, authority, secret: Secret::random()?, expires_at }.checked()?;
        self.change(|registry| registry.add_token(&token.secret, expires_at, now))?;
        Ok(token)
    }

    /// The tokens that exist.
    #[must_use]
    pub fn tokens(&self) -> Vec<TokenStatus> {
        self.book().registry.tokens()
    }

    /// Ends a token before its time. Returns whether there was one of that id.
    pub fn revoke_token(&self, id: &TokenId) -> Result<bool, IdentityError> {
        self.change(|registry| registry.revoke_token(id))
    }

    /// Strikes a worker off, so that another may take its name. Returns whether it was there. Ask
    /// [`knows_worker`](Self::knows_worker) when a worker connects: its certificate does not expire.
    pub fn forget_worker(&self, name: &WorkerName) -> Result<bool, IdentityError> {
        self.change(|registry| registry.forget_worker(name))
    }

    /// Whether a worker of that name is enrolled.
    #[must_use]
    pub fn knows_worker(&self, name: &WorkerName) -> bool {
        self.book().registry.knows_worker(name)
    }

    /// Enrols a worker: checks its token, gives it its name and signs its certificate.
    pub fn enrol(&self, from: IpAddr, request: EnrolRequest) -> Result<Enrolled, EnrolRefusal> {
        let now = unix_seconds(SystemTime::now());
        {
            let mut book = self.book();
            if !book.limiter.may_try(from, Instant::now()) {
                return Err(EnrolRefusal::TooManyAttempts);
            }
            if let Err(refusal) = book.registry.check_secret(&request.secret, now) {
                book.limiter.record_failure(from, Instant::now());
                return Err(refusal);
            }
        }
        let name = WorkerName::new(&request.name)
            .map_err(|_| EnrolRefusal::InvalidName { found: request.name.chars().take(100).collect() })?;
        let public_key = PublicKey::new(request.public_key.clone())?;
        let signed = self.signer.sign_node(&PeerName::Worker(name.clone()), &public_key).map_err(internal)?;
        self.change(|registry| registry.claim_name(&name, &request.public_key)).map_err(internal)??;
        Ok(Enrolled { certificate: signed.to_vec(), authority: self.signer.certificate().to_vec() })
    }

    fn identity(&self, name: &PeerName) -> Result<Identity, IdentityError> {
        let key = new_key()?;
        let certificate = self.signer.sign_node(name, &key)?;
        Identity::new(&key, certificate, self.signer.certificate().clone())
    }

    /// Changes the book, on disk first, so that what the caller is told survives a crash.
    fn change<T>(&self, change: impl FnOnce(&mut Registry) -> T) -> Result<T, IdentityError> {
        let mut book = self.book();
        let mut changed = book.registry.clone();
        let result = change(&mut changed);
        if changed != book.registry {
            if let Some(state) = &self.state {
                let json = serde_json::to_vec_pretty(&changed).map_err(|error| state.damaged(REGISTRY_FILE, error))?;
                state.write(REGISTRY_FILE, &json)?;
            }
            book.registry = changed;
        }
        Ok(result)
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        // The book is replaced whole, never left half changed: a panic elsewhere does not spoil it.
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn internal(error: IdentityError) -> EnrolRefusal {
    tracing::error!(%error, "cannot enrol a worker");
    EnrolRefusal::Internal
}

#[cfg(test)]
mod tests {
    use super::super::{JoinedCluster, NodeKey, StateDirError};
    use super::*;

    fn addresses() -> Vec<CoordinatorAddress> {
        vec![CoordinatorAddress { host: "localhost".into(), control_port: 1, data_port: 2 }]
    }

    fn request(token: &JoinToken, name: &str, key: &NodeKey) -> EnrolRequest {
        EnrolRequest { secret: token.secret.clone(), name: name.into(), public_key: key.public_key() }
    }

    const FROM: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

    #[test]
    fn an_authority_its_tokens_and_its_workers_survive_a_restart() {
        let folder = tempfile::tempdir().unwrap();
        let open = || ClusterAuthority::open(Arc::new(StateDir::open(folder.path()).unwrap())).unwrap();
        let key = NodeKey::generate().unwrap();
        let (token, fingerprint) = {
            let authority = open();
            let token = authority.invite(addresses(), Duration::from_secs(60)).unwrap();
            authority.enrol(FROM, request(&token, "a", &key)).unwrap();
            (token, authority.fingerprint())
        };
        let authority = open();
        assert_eq!(authority.fingerprint(), fingerprint);
        assert!(authority.knows_worker(&WorkerName::new("a").unwrap()));
        let other = NodeKey::generate().unwrap();
        let taken = EnrolRefusal::NameTaken { name: "a".into() };
        assert_eq!(authority.enrol(FROM, request(&token, "a", &other)).unwrap_err(), taken);
        authority.enrol(FROM, request(&token, "b", &other)).unwrap();
    }

    #[test]
    fn a_worker_keeps_what_it_was_given() {
        let folder = tempfile::tempdir().unwrap();
        let state = StateDir::open(folder.path()).unwrap();
        let authority = ClusterAuthority::ephemeral().unwrap();
        let token = authority.invite(addresses(), Duration::from_secs(60)).unwrap();
        let key = NodeKey::load_or_make(&state).unwrap();
        assert!(JoinedCluster::load(&state).unwrap().is_none());
        let identity = key.certified(authority.enrol(FROM, request(&token, "a", &key)).unwrap()).unwrap();
        JoinedCluster { identity, coordinator: addresses() }.store(&state).unwrap();
        let loaded = JoinedCluster::load(&state).unwrap().unwrap();
        assert_eq!(loaded.identity.name(), &PeerName::worker("a").unwrap());
        assert_eq!(loaded.identity.fingerprint(), authority.fingerprint());
        assert_eq!(loaded.coordinator, addresses());
        assert_eq!(NodeKey::load_or_make(&state).unwrap().public_key(), key.public_key());
    }

    #[test]
    fn a_secret_is_not_on_the_coordinators_disk() {
        let folder = tempfile::tempdir().unwrap();
        let authority = ClusterAuthority::open(Arc::new(StateDir::open(folder.path()).unwrap())).unwrap();
        let token = authority.invite(addresses(), Duration::from_secs(60)).unwrap();
        let book = std::fs::read_to_string(folder.path().join(REGISTRY_FILE)).unwrap();
        let hex = |bytes: &[u8; 32]| blake3::Hash::from(*bytes).to_hex().to_string();
        assert!(book.contains(&token.secret.digest().to_hex().to_string()));
        assert!(!book.contains(&hex(&token.secret.0)));
    }

    #[test]
    fn guessing_is_stopped_and_an_expired_token_lets_nobody_in() {
        let authority = ClusterAuthority::ephemeral().unwrap();
        let key = NodeKey::generate().unwrap();
        let expired = authority.invite(addresses(), Duration::ZERO).unwrap();
        assert_eq!(authority.enrol(FROM, request(&expired, "a", &key)).unwrap_err(), EnrolRefusal::ExpiredToken);
        let wrong = JoinToken { secret: Secret([1; 32]), ..expired };
        let refusals: Vec<_> =
            (0..20).map(|_| authority.enrol(FROM, request(&wrong, "a", &key)).unwrap_err()).collect();
        assert_eq!(refusals[0], EnrolRefusal::UnknownToken);
        assert_eq!(refusals[19], EnrolRefusal::TooManyAttempts);
    }

    #[test]
    fn a_damaged_directory_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let open = || ClusterAuthority::open(Arc::new(StateDir::open(folder.path()).unwrap()));
        drop(open().unwrap());
        std::fs::write(folder.path().join(KEY_FILE), "no key").unwrap();
        let error = open().err().unwrap();
        assert!(matches!(&error, IdentityError::StateDir(StateDirError::Damaged { .. })));
        assert!(error.to_string().contains(KEY_FILE), "{error}");
    }
}
