//! A line to Redis that can lose a reply: the call is carried out, the caller
//! sees a connection that breaks.

use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::rig::PATIENCE;

/// See the module.
pub(crate) struct Proxy {
    port: u16,
    address: Arc<Mutex<String>>,
    /// What the call contains whose reply is lost, and what the reply contains.
    wanted: Arc<Mutex<Option<(String, String)>>>,
    lost: watch::Sender<usize>,
    accepting: JoinHandle<()>,
}

impl Proxy {
    /// A line to the Redis at `url`.
    pub(crate) async fn to(url: &str) -> Self {
        let address = Arc::new(Mutex::new(address_of(url)));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let own = listener.local_addr().unwrap().port();
        let wanted = Arc::new(Mutex::new(None));
        let lost = watch::Sender::new(0);
        let (theirs, count) = (Arc::clone(&wanted), lost.clone());
        let now = Arc::clone(&address);
        let accepting = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                // Redis may be away: then so is this connection.
                let address = now.lock().unwrap().clone();
                let Ok(server) = TcpStream::connect(&address).await else { continue };
                tokio::spawn(carry(client, server, Arc::clone(&theirs), count.clone()));
            }
        });
        Self { port: own, address, wanted, lost, accepting }
    }

    /// New connections lead to the Redis at `url`; those that are open stay.
    pub(crate) fn lead_to(&self, url: &str) {
        *self.address.lock().unwrap() = address_of(url);
    }

    pub(crate) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// After the next call that contains `call` (where that is not empty), loses the
    /// first reply that contains `reply`.
    pub(crate) fn lose_reply_to(&self, call: &str, reply: &str) {
        *self.wanted.lock().unwrap() = Some((call.to_owned(), reply.to_owned()));
    }

    /// Waits until so many replies were lost.
    pub(crate) async fn wait_lost(&self, count: usize) {
        let mut lost = self.lost.subscribe();
        let waited = tokio::time::timeout(PATIENCE, lost.wait_for(|lost| *lost >= count)).await;
        waited.expect("the reply that should be lost never came").unwrap();
    }
}

fn address_of(url: &str) -> String {
    url.strip_prefix("redis://").unwrap().to_owned()
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

/// Carries bytes both ways until either side ends or a reply is lost.
async fn carry(
    client: TcpStream,
    server: TcpStream,
    wanted: Arc<Mutex<Option<(String, String)>>>,
    lost: watch::Sender<usize>,
) {
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    let (mut call, mut reply) = (vec![0; 1 << 16], vec![0; 1 << 16]);
    let mut losing: Option<String> = None;
    loop {
        tokio::select! {
            // A call on its way is forwarded before a reply is looked at.
            biased;
            read = from_client.read(&mut call) => {
                let bytes = match read { Ok(0) | Err(_) => return, Ok(length) => &call[..length] };
                let found = wanted.lock().unwrap().take_if(|(call, _)| {
                    !call.is_empty() && contains(bytes, call)
                });
                losing = losing.or(found.map(|(_, reply)| reply));
                if to_server.write_all(bytes).await.is_err() {
                    return;
                }
            }
            read = from_server.read(&mut reply) => {
                let bytes = match read { Ok(0) | Err(_) => return, Ok(length) => &reply[..length] };
                // A call that blocks was made long ago: its reply alone says which it is.
                let found = wanted.lock().unwrap().take_if(|(call, reply)| {
                    call.is_empty() && contains(bytes, reply)
                });
                losing = losing.or(found.map(|(_, reply)| reply));
                if losing.as_ref().is_some_and(|wanted| contains(bytes, wanted)) {
                    // It was carried out: both connections break, nobody is told.
                    lost.send_modify(|lost| *lost += 1);
                    return;
                }
                if to_client.write_all(bytes).await.is_err() {
                    return;
                }
            }
        }
    }
}

fn contains(bytes: &[u8], text: &str) -> bool {
    text.is_empty() || bytes.windows(text.len()).any(|window| window == text.as_bytes())
}
