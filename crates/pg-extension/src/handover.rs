//! A client that came through the cluster endpoint is talked to directly.
//!
//! The endpoint has to stand between a client and the writer until it is known who both are. After that it would only carry
//! bytes, at the cost of two more wake-ups for every message. So once a client is authenticated this process asks the
//! endpoint for the client's socket and puts it in the place of its own. Whatever is in the way, a client that went on
//! talking before it was let in or an endpoint that does not answer, leaves everything as it was.
//!
//! Source: libpq-be.h (`Port`), pqcomm.c (`pq_init`), auth.c (`ClientAuthentication`) of PostgreSQL 15.

use std::ffi::{CString, c_char, c_int, c_void};
use std::io::{self, IoSliceMut, Write};
use std::mem::{ManuallyDrop, MaybeUninit};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsRawFd, FromRawFd, IntoRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use pgrx::pg_sys;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use wire_format::handover::{Handover, TAKEN};

use crate::{commit_guard, errors, settings};

/// How long the endpoint may take to answer.
const ANSWER_LIMIT: Duration = Duration::from_secs(2);
const STATUS_OK: c_int = 0;
/// `FeBeWaitSetNEvents` (libpq.h).
const WAIT_EVENTS: c_int = 3;
/// Where `tcpi_bytes_received`, `tcpi_bytes_sent` and `tcpi_bytes_retrans` stand in the kernel's `struct tcp_info`
/// (linux/tcp.h), which libc knows in part only.
const BYTES_RECEIVED_AT: usize = 128;
const BYTES_SENT_AT: usize = 200;
const BYTES_RETRANSMITTED_AT: usize = 208;
const TCP_INFO_BYTES: usize = 216;

type AuthenticationHook = Option<unsafe extern "C-unwind" fn(*mut PortBeginning, c_int)>;

/// The beginning of PostgreSQL's `Port`.
#[repr(C)]
struct PortBeginning {
    sock: c_int,
    noblock: bool,
    proto: u32,
    laddr: pg_sys::SockAddr,
    raddr: pg_sys::SockAddr,
    remote_host: *mut c_char,
    remote_hostname: *mut c_char,
    remote_hostname_resolv: c_int,
    remote_hostname_errcode: c_int,
    remote_port: *mut c_char,
}

unsafe extern "C-unwind" {
    static mut ClientAuthentication_hook: AuthenticationHook;
    static mut FeBeWaitSet: *mut pg_sys::WaitEventSet;
    fn pq_buffer_has_data() -> bool;
}

static mut PREVIOUS: AuthenticationHook = None;

/// Asks for every client from now on; in the postmaster. Does nothing without `borealis.endpoint_socket`.
pub fn install() {
    if settings::endpoint_socket().is_empty() {
        return;
    }
    // SAFETY: hooks are plain variables, and this is the postmaster with its one thread.
    unsafe {
        PREVIOUS = ClientAuthentication_hook;
        ClientAuthentication_hook = Some(after_authentication);
    }
}

#[pgrx::pg_guard]
unsafe extern "C-unwind" fn after_authentication(port: *mut PortBeginning, status: c_int) {
    // SAFETY: set in `install`; whoever hooked before expects to be called, with what we were given.
    if let Some(previous) = unsafe { PREVIOUS } {
        // SAFETY: as above.
        unsafe { previous(port, status) };
    }
    if status != STATUS_OK {
        return;
    }
    match ask() {
        Ok(Some((client, endpoint))) => {
            // SAFETY: PostgreSQL's own `Port`, in the process that it belongs to, before anything else uses its socket.
            unsafe { take_over(port, client) };
            // Open as long as this process lives: its end tells the endpoint.
            let _ = endpoint.into_raw_fd();
        }
        Ok(None) => {}
        Err(error) => pgrx::debug1!("borealis: the client's connection stays with the endpoint: {error}"),
    }
}

/// The client's own socket and the connection to the endpoint, if the client came through it and nothing is on its way.
fn ask() -> io::Result<Option<(OwnedFd, UnixStream)>> {
    let Some(socket) = commit_guard::client_socket() else {
        return Ok(None);
    };
    // SAFETY: an open socket that PostgreSQL keeps, and that is not closed by what stands around it here.
    let client = ManuallyDrop::new(unsafe { TcpStream::from_raw_fd(socket) });
    // A unix socket has no such address.
    let Ok(endpoint @ (SocketAddr::V4(_) | SocketAddr::V6(_))) = client.peer_addr() else {
        return Ok(None);
    };
    let Some((received, sent)) = transferred(&client)? else {
        return Ok(None);
    };
    // SAFETY: reads two plain variables of this process.
    let buffered = unsafe { pq_buffer_has_data() };
    let is_quiet = matches!(client.peek(&mut [0]), Err(error) if error.kind() == io::ErrorKind::WouldBlock);
    if buffered || !is_quiet {
        return Ok(None);
    }
    let mut stream = match UnixStream::connect(settings::endpoint_socket()) {
        // No endpoint, or one that hands nothing over.
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => {
            return Ok(None);
        }
        other => other?,
    };
    let handover = Handover {
        endpoint,
        sent,
        received,
    };
    stream.write_all(handover.to_string().as_bytes())?;
    Ok(answer(&stream)?.map(|client| (client, stream)))
}

/// The socket that comes with the endpoint's answer, if it gives it away.
fn answer(stream: &UnixStream) -> io::Result<Option<OwnedFd>> {
    let deadline = Instant::now() + ANSWER_LIMIT;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        stream.set_read_timeout(Some(left))?;
        let mut answer = [0];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut attached = RecvAncillaryBuffer::new(&mut space);
        let received = recvmsg(
            stream,
            &mut [IoSliceMut::new(&mut answer)],
            &mut attached,
            RecvFlags::CMSG_CLOEXEC,
        );
        match received {
            // A signal, or the end of the time.
            Err(rustix::io::Errno::INTR | rustix::io::Errno::AGAIN) => continue,
            Err(error) => return Err(error.into()),
            Ok(received) if received.bytes == 0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(_) => {}
        }
        let mut sockets = attached.drain().filter_map(|message| match message {
            RecvAncillaryMessage::ScmRights(sockets) => Some(sockets),
            _ => None,
        });
        let socket = sockets.next().and_then(|mut sockets| sockets.next());
        return match (answer[0], socket) {
            (TAKEN, Some(socket)) => Ok(Some(socket)),
            (TAKEN, None) => Err(io::Error::other("the client's socket did not come with the answer")),
            _ => Ok(None),
        };
    }
}

/// Bytes received and sent on a connection so far; `None` from a kernel that does not count them.
fn transferred(client: &TcpStream) -> io::Result<Option<(u64, u64)>> {
    let mut info = [0u8; 512];
    let mut length = info.len() as libc::socklen_t;
    // SAFETY: room for what the kernel writes, and its size.
    let known = unsafe {
        libc::getsockopt(
            client.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            info.as_mut_ptr().cast::<c_void>(),
            &raw mut length,
        )
    };
    if known != 0 {
        return Err(io::Error::last_os_error());
    }
    if (length as usize) < TCP_INFO_BYTES {
        return Ok(None);
    }
    let count = |at: usize| u64::from_ne_bytes(info[at..at + 8].try_into().expect("eight bytes"));
    let sent = count(BYTES_SENT_AT).saturating_sub(count(BYTES_RETRANSMITTED_AT));
    Ok(Some((count(BYTES_RECEIVED_AT), sent)))
}

/// Puts the client's socket in the place of the one to the endpoint, which must be left alone from now on.
///
/// SAFETY: `port` must be this process's `MyProcPort`.
unsafe fn take_over(port: *mut PortBeginning, client: OwnedFd) {
    // SAFETY: the caller's promise; `pq_init` made the wait set just like this, and nobody waits on it now. What fails ends the
    // process, as it would there.
    unsafe {
        let socket = (*port).sock;
        let latch = pg_sys::MyLatch;
        pg_sys::FreeWaitEventSet(FeBeWaitSet);
        if libc::dup3(client.as_raw_fd(), socket, libc::O_CLOEXEC) != socket {
            let error = io::Error::last_os_error();
            errors::die(
                format!("cannot take the client's connection over: {error}"),
                "Connect again.",
            );
        }
        FeBeWaitSet = pg_sys::CreateWaitEventSet(pg_sys::TopMemoryContext, WAIT_EVENTS);
        let add = |events: u32, socket: c_int, latch: *mut pg_sys::Latch| {
            pg_sys::AddWaitEventToSet(FeBeWaitSet, events, socket, latch, std::ptr::null_mut());
        };
        add(pg_sys::WL_SOCKET_WRITEABLE, socket, std::ptr::null_mut());
        add(pg_sys::WL_LATCH_SET, pg_sys::PGINVALID_SOCKET, latch);
        add(
            pg_sys::WL_POSTMASTER_DEATH,
            pg_sys::PGINVALID_SOCKET,
            std::ptr::null_mut(),
        );
        keep_alive(socket);
        let stream = ManuallyDrop::new(TcpStream::from_raw_fd(socket));
        address_of(&mut (*port).laddr, |address, length| {
            libc::getsockname(socket, address, length)
        });
        address_of(&mut (*port).raddr, |address, length| {
            libc::getpeername(socket, address, length)
        });
        // A client that is gone already is found out about with the first message.
        if let Ok(peer) = stream.peer_addr() {
            (*port).remote_host = lasting(&peer.ip().to_string());
            (*port).remote_port = lasting(&peer.port().to_string());
            (*port).remote_hostname = std::ptr::null_mut();
        }
    }
}

/// The settings that PostgreSQL made for the other socket.
///
/// SAFETY: `socket` must be an open socket.
unsafe fn keep_alive(socket: c_int) {
    // SAFETY: plain settings of this process; an option is a number. A kernel without one has its default, as before.
    unsafe {
        for (option, value) in [
            (libc::TCP_KEEPIDLE, pg_sys::tcp_keepalives_idle),
            (libc::TCP_KEEPINTVL, pg_sys::tcp_keepalives_interval),
            (libc::TCP_KEEPCNT, pg_sys::tcp_keepalives_count),
            (libc::TCP_USER_TIMEOUT, pg_sys::tcp_user_timeout),
        ] {
            if 0 < value {
                let bytes = size_of::<c_int>() as libc::socklen_t;
                let value = (&raw const value).cast();
                libc::setsockopt(socket, libc::IPPROTO_TCP, option, value, bytes);
            }
        }
    }
}

/// Fills in an address, as `StreamConnection` does.
fn address_of(into: &mut pg_sys::SockAddr, ask: impl FnOnce(*mut libc::sockaddr, *mut libc::socklen_t) -> c_int) {
    let mut length = size_of_val(&into.addr) as libc::socklen_t;
    if ask((&raw mut into.addr).cast(), &raw mut length) == 0 {
        into.salen = length;
    }
}

/// A text that lives as long as the process.
fn lasting(text: &str) -> *mut c_char {
    let text = CString::new(text).unwrap_or_default();
    // SAFETY: a NUL-terminated text, copied into memory that is never given back.
    unsafe { pg_sys::MemoryContextStrdup(pg_sys::TopMemoryContext, text.as_ptr()) }
}
