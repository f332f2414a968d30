//! Tells clocks that differ from a certificate that has ended: both look alike to TLS, and only one is mended by a new certificate.

use crate::kubeconfig::Endpoint;
use crate::tls;
use http::header;
use http_body_util::Empty;
use hyper_util::rt::TokioIo;
use jiff::Timestamp;
use object::Status;
use rustls::pki_types::{ServerName, UnixTime};
use rustls::time_provider::TimeProvider;
use rustls::{CertificateError, Error};
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio_rustls::TlsConnector;

/// The reason of a Status where the server's certificate does not hold by this machine's clock, and the server's clock differs.
pub const CLOCK_DIFFERS: &str = "ClockDiffers";
/// Clocks that differ by less are no reason for anything.
const TOLERATED_SECONDS: i64 = 60;
/// Certificates of a chain may each begin or end at another time.
const ATTEMPTS_MAX: usize = 4;
const TIMEOUT: Duration = Duration::from_secs(5);

/// A clock that stands.
#[derive(Debug)]
struct Standing(UnixTime);

impl TimeProvider for Standing {
    fn current_time(&self) -> Option<UnixTime> {
        Some(self.0)
    }
}

/// When the certificate that failed begins or ends, if it failed for its time.
fn boundary(error: &io::Error) -> Option<UnixTime> {
    match error.get_ref()?.downcast_ref::<Error>()? {
        Error::InvalidCertificate(CertificateError::NotValidYetContext { not_before, .. }) => Some(*not_before),
        Error::InvalidCertificate(CertificateError::ExpiredContext { not_after, .. }) => Some(*not_after),
        _ => None,
    }
}

/// What is said of a handshake that failed for a certificate's time; None where it failed for something else, or the server's time cannot be learnt.
pub(crate) async fn explain(endpoint: &Endpoint, here: &dyn TimeProvider, error: &io::Error) -> Option<Status> {
    let at = boundary(error)?;
    let there = tokio::time::timeout(TIMEOUT, time_of(endpoint, at)).await.ok().flatten()?;
    let here = Timestamp::from_second(i64::try_from(here.current_time()?.as_secs()).ok()?).ok()?;
    Some(told(&endpoint.host, endpoint.port, here, there))
}

fn told(host: &str, port: u16, here: Timestamp, there: Timestamp) -> Status {
    let seconds = here.as_second() - there.as_second();
    if seconds.abs() <= TOLERATED_SECONDS {
        return Status::unavailable(format!(
            "the certificate of the server at {host}:{port} does not hold at {there}, and its clock and this machine's agree: restart \
             the server, which renews its certificate; if this goes on, its authority has ended"
        ));
    }
    let (word, amount) = (if seconds < 0 { "behind" } else { "ahead of" }, amount(seconds.unsigned_abs()));
    let message = format!(
        "this machine's clock is {amount} {word} the server's ({here} here, {there} at {host}:{port}), so that the server's certificate does \
         not hold here; set the clock that is wrong (such as with `timedatectl set-ntp true` or `date --set`), then try again"
    );
    Status::new(503, CLOCK_DIFFERS, message)
}

/// The two largest units: `1 d 2 h`.
fn amount(seconds: u64) -> String {
    let units = [("d", seconds / 86_400), ("h", seconds / 3600 % 24), ("min", seconds / 60 % 60), ("s", seconds % 60)];
    let shown = units.iter().skip_while(|(_, count)| *count == 0).take(2).filter(|(_, count)| *count > 0);
    shown.map(|(unit, count)| format!("{count} {unit}")).collect::<Vec<_>>().join(" ")
}

/// The server's own time. Its certificates are verified as at any time, but for a moment when they hold; nothing secret is sent.
async fn time_of(endpoint: &Endpoint, mut at: UnixTime) -> Option<Timestamp> {
    let anonymous = Endpoint {
        host: endpoint.host.clone(),
        port: endpoint.port,
        authorities: endpoint.authorities.clone(),
        certificate: None,
        token: None,
        pin: endpoint.pin.clone(),
    };
    for _ in 0..ATTEMPTS_MAX {
        let time: Arc<dyn TimeProvider> = Arc::new(Standing(at));
        let config = tls::config(&anonymous, b"http/1.1", &time).ok()?;
        let stream = dial::connect(&endpoint.host, endpoint.port).await.ok()?;
        let name = ServerName::try_from(endpoint.host.clone()).ok()?;
        let stream = match TlsConnector::from(config).connect(name, stream).await {
            Ok(stream) => stream,
            Err(error) => {
                at = boundary(&error)?;
                continue;
            }
        };
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.ok()?;
        let driving = tokio::spawn(connection);
        let request = http::Request::get("/livez").header(header::HOST, &endpoint.host).body(Empty::<&[u8]>::new());
        let response = sender.send_request(request.ok()?).await;
        driving.abort();
        let response = response.ok()?;
        let date = response.headers().get(header::DATE)?.to_str().ok()?;
        return jiff::fmt::rfc2822::parse(date).ok().map(|zoned| zoned.timestamp());
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_names_the_difference_and_who_is_behind() {
        let at = |seconds| Timestamp::from_second(seconds).unwrap_or_default();
        let said = |here, there| told("192.0.2.1", 6443, at(here), at(there));
        let behind = said(1_700_000_000, 1_700_090_000);
        assert_eq!(behind.reason, CLOCK_DIFFERS);
        let words = "this machine's clock is 1 d 1 h behind the server's (2023-11-14T22:13:20Z here, 2023-11-15T23:13:20Z at 192.0.2.1:6443)";
        assert!(behind.message.starts_with(words), "{}", behind.message);
        assert!(said(1_700_000_700, 1_700_000_000).message.starts_with("this machine's clock is 11 min 40 s ahead of"));
        let agree = said(1_700_000_059, 1_700_000_000);
        assert!(agree.reason != CLOCK_DIFFERS && agree.message.contains("agree"), "{}", agree.message);
        for (seconds, words) in [(61, "1 min 1 s"), (3600, "1 h"), (86_461, "1 d"), (90_061, "1 d 1 h")] {
            assert_eq!(amount(seconds), words);
        }
    }
}
