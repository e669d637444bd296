//! A network of the test's own, in which every address of the world is this
//! machine: whatever leaves the jail arrives here and is counted.

use std::io::ErrorKind;
use std::net::{Ipv6Addr, TcpListener, TcpStream, UdpSocket};
use std::process::{Command, Stdio};

/// Set in a test that runs in a process of its own.
const ALONE: &str = "TILLROLL_TEST_ALONE";

/// Web, its encrypted form, DNS, STUN, `DevTools`.
const TCP: [u16; 5] = [80, 443, 53, 3478, 9222];
/// DNS, multicast DNS, QUIC, STUN.
const UDP: [u16; 4] = [53, 5353, 443, 3478];

/// Runs this test again, by its full name, in a network namespace in which every
/// route leads to its own loopback. True in that second run.
pub(crate) fn is_within(name: &str) -> bool {
    if std::env::var_os(ALONE).is_some() {
        return true;
    }
    let script = "ip link set lo up && ip route add local default dev lo && \
                  ip -6 route add local default dev lo && exec \"$@\"";
    let mut command = Command::new("unshare");
    command.args(["--user", "--map-root-user", "--net", "--", "sh", "-c", script, "sh"]);
    command.arg(std::env::current_exe().unwrap()).args([name, "--exact", "--nocapture"]);
    let status = command.env(ALONE, "1").stdin(Stdio::null()).status();
    let status = status.expect("the tests need util-linux and iproute2");
    assert!(status.success(), "{name} in a network of its own: {status}");
    false
}

/// Everybody who could be called.
pub(crate) struct World {
    tcp: Vec<TcpListener>,
    udp: Vec<UdpSocket>,
    packets: u64,
}

impl World {
    /// Listens on every port of interest, at every address there is.
    pub(crate) fn listen() -> Self {
        let any = Ipv6Addr::UNSPECIFIED;
        let tcp: Vec<_> = TCP.iter().map(|port| TcpListener::bind((any, *port)).unwrap()).collect();
        let udp: Vec<_> = UDP.iter().map(|port| UdpSocket::bind((any, *port)).unwrap()).collect();
        tcp.iter().for_each(|socket| socket.set_nonblocking(true).unwrap());
        udp.iter().for_each(|socket| socket.set_nonblocking(true).unwrap());
        Self { tcp, udp, packets: packets("self") }
    }

    /// Fails if anything came, on a port or as a packet to wherever.
    pub(crate) fn heard_nothing(&self, after: &str) {
        let empty = |kind: ErrorKind| assert_eq!(kind, ErrorKind::WouldBlock, "after {after}");
        for socket in &self.tcp {
            let came = socket.accept().expect_err(&format!("a connection after {after}"));
            empty(came.kind());
        }
        for socket in &self.udp {
            let came = socket.recv_from(&mut [0; 1]).expect_err(&format!("a packet after {after}"));
            empty(came.kind());
        }
        assert_eq!(packets("self"), self.packets, "packets left the jail after {after}");
    }

    /// That it would have heard: any address of the world is here.
    pub(crate) fn would_have_heard(self) {
        for (at, address) in ["169.254.169.254", "127.0.0.1", "93.184.215.14"].iter().enumerate() {
            let caller = TcpStream::connect((*address, TCP[at])).unwrap();
            assert_eq!(
                self.tcp[at].accept().unwrap().1.port(),
                caller.local_addr().unwrap().port()
            );
        }
        let caller = UdpSocket::bind("0.0.0.0:0").unwrap();
        caller.send_to(b"?", ("192.0.2.1", UDP[0])).unwrap();
        assert_eq!(self.udp[0].recv_from(&mut [0; 4]).unwrap().0, 1);
        assert!(packets("self") > self.packets);
    }
}

/// The names of a process' network interfaces.
pub(crate) fn interfaces(process: &str) -> Vec<String> {
    let devices = std::fs::read_to_string(format!("/proc/{process}/net/dev")).unwrap();
    let names = devices.lines().filter_map(|line| Some(line.split_once(':')?.0.trim().to_owned()));
    names.collect()
}

/// Packets that were sent on all interfaces of a process' network.
pub(crate) fn packets(process: &str) -> u64 {
    let devices = std::fs::read_to_string(format!("/proc/{process}/net/dev")).unwrap();
    let numbers = devices.lines().filter_map(|line| Some(line.split_once(':')?.1));
    let sent = numbers.map(|line| line.split_whitespace().nth(9).unwrap().parse::<u64>().unwrap());
    sent.sum()
}
