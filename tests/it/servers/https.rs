//! nginx, fcgiwrap and git-http-backend: a git server over HTTPS as people run it, TLS 1.3 and
//! HTTP/2, with everything in its ways that a web server may do to a client.
//!
//! A way is the first part of the path, before `NAME.git`:
//!
//! | way | what the client meets |
//! | --- | --- |
//! | `""` | protocol v2, no credentials |
//! | `v0/` | the header `Git-Protocol` is dropped: v0 only |
//! | `auth/` | basic authentication, [`USER`](super::USER) and [`PASSWORD`](super::PASSWORD) |
//! | `redirect/301/`, `302`, `307`, `308` | a redirect to the way that follows: `redirect/301/auth/` |
//! | `elsewhere/` | a redirect to `auth/` on another host name and port, [`Face::Other`] |
//! | `loop/` | a redirect to itself |
//! | `dumb/` | the repository as files, `git update-server-info` must have run |
//! | `status/401/`, `403`, `404`, `429`, `500`, `503` | this status; 429 with `Retry-After: 120` |
//! | `busy/` | 503 with `Retry-After: 120` |
//! | `flaky/` | 503 for every second request, by chance; else as `""` |
//! | `cgi/SCRIPT/` | whatever [`Https::answer_with`] was given as SCRIPT |

use std::fmt::Write as _;
use std::fs;
use std::io::{Read, Write as _};
use std::net::TcpStream;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::process::Stdio;

use crate::sandbox::{Sandbox, text, write_program};

use super::certificates::Certificates;
use super::{PASSWORD, Running, USER, free_port, git_exec_path, has_ipv6};

/// What [`Https::settle`] asks for.
const SETTLED: &str = "/settled";
/// How many git-http-backends may run at once.
const GATEWAYS: usize = 4;

/// One of the ports, each with a certificate of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Face {
    /// A certificate for `localhost` and `127.0.0.1`, signed by the CA of the tests.
    Good,
    /// The same on a second port.
    Other,
    /// An expired certificate.
    Expired,
    /// A certificate that signed itself.
    SelfSigned,
    /// A certificate for another host name.
    WrongHost,
    /// As [`Face::Good`], but a certificate is wanted from the client.
    ClientCertificate,
    /// A certificate of its own for `localhost`, as `openssl req -x509` makes it.
    Own,
    /// The same, expired.
    OwnExpired,
    /// The same with a key of the kind P-521.
    P521,
    /// The same with a key of the kind RSA-PSS.
    RsaPss,
    /// A certificate that a CA signed which the CA of the tests signed.
    Chained,
    /// HTTP without TLS.
    Plain,
}

/// Every face, in the order of the ports, with the name of its certificate.
const FACES: [(Face, &str); 12] = [
    (Face::Good, "good"),
    (Face::Other, "good"),
    (Face::Expired, "expired"),
    (Face::SelfSigned, "self-signed"),
    (Face::WrongHost, "wrong-host"),
    (Face::ClientCertificate, "good"),
    (Face::Own, "own"),
    (Face::OwnExpired, "own-expired"),
    (Face::P521, "p521"),
    (Face::RsaPss, "rsa-pss"),
    (Face::Chained, "chained"),
    (Face::Plain, ""),
];

/// One line of the access log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    pub method: String,
    /// Path and query.
    pub uri: String,
    pub status: u16,
    /// The header `Git-Protocol`; empty without it.
    pub git_protocol: String,
    /// Counts the connections that the server saw.
    pub connection: u64,
    /// Whether credentials came with it.
    pub authorized: bool,
    pub port: u16,
    /// `HTTP/1.1` or `HTTP/2.0`.
    pub http: String,
}

/// The running server.
pub struct Https {
    dir: PathBuf,
    ports: Vec<u16>,
    nginx: Running,
    gateways: Vec<Running>,
}

impl Https {
    /// Starts it for every repository of the sandbox's server.
    pub fn of(machine: &Sandbox) -> Self {
        let ports: Vec<u16> = FACES.iter().map(|_| free_port()).collect();
        let directory = machine.path(&format!("https-{}", ports[0]));
        for part in ["", "tls", "cgi", "tmp"] {
            fs::create_dir(directory.join(part)).unwrap();
        }
        Certificates::get().write_into(&directory.join("tls"));
        fs::write(directory.join("users"), format!("{USER}:{{PLAIN}}{PASSWORD}\n")).unwrap();
        fs::write(directory.join("access.log"), "").unwrap();

        // fcgiwrap takes the listening socket as its standard input; several share one.
        let socket: OwnedFd = UnixListener::bind(directory.join("socket")).unwrap().into();
        let gateways = (0..GATEWAYS)
            .map(|_| {
                let input = Stdio::from(socket.try_clone().unwrap());
                let log = directory.join("fcgiwrap.log");
                Running::start_with(machine, "fcgiwrap", &[], &log, input)
            })
            .collect();

        let file = directory.join("nginx.conf");
        fs::write(&file, configuration(machine, &directory, &ports)).unwrap();
        let log = directory.join("error.log");
        let arguments = ["-p", text(&directory), "-c", text(&file), "-e", text(&log)];
        let nginx = Running::start(machine, "nginx", &arguments, &log);
        // It opens one port after the other.
        let nginx = ports.iter().fold(nginx, |nginx, port| nginx.listening_on(*port));
        Self { dir: directory, ports, nginx, gateways }
    }

    /// The URL of the repository `name`, without obstacles.
    pub fn url(&self, name: &str) -> String {
        self.url_at("", name)
    }

    /// Its URL through one of the ways that this module lists.
    pub fn url_at(&self, way: &str, name: &str) -> String {
        format!("https://localhost:{}/{way}{name}.git", self.port(Face::Good))
    }

    /// Its URL on another port.
    pub fn url_on(&self, face: Face, name: &str) -> String {
        let scheme = if face == Face::Plain { "http" } else { "https" };
        format!("{scheme}://localhost:{}/{name}.git", self.port(face))
    }

    /// Where `face` is.
    pub fn port(&self, face: Face) -> u16 {
        let index = FACES.iter().position(|(other, _)| *other == face).unwrap();
        self.ports[index]
    }

    /// The certificate of the CA.
    pub fn ca_file(&self) -> PathBuf {
        self.dir.join("tls/ca.pem")
    }

    /// The certificate of `face`, with its key in the same file.
    pub fn certificate(&self, face: Face) -> PathBuf {
        let (_, name) = FACES.iter().find(|(other, _)| *other == face).unwrap();
        self.dir.join(format!("tls/{name}.pem"))
    }

    /// A certificate that [`Face::ClientCertificate`] accepts, with its key in the same file.
    pub fn client_certificate(&self) -> PathBuf {
        self.dir.join("tls/client.pem")
    }

    /// From now on, this is the password of `auth/`.
    pub fn change_password(&self, password: &str) {
        fs::write(self.dir.join("users"), format!("{USER}:{{PLAIN}}{password}\n")).unwrap();
    }

    /// Lets the shell script `script` answer whatever is asked below `cgi/NAME/`: it prints
    /// headers, an empty line and a body.
    pub fn answer_with(&self, name: &str, script: &str) {
        let file = self.dir.join("cgi").join(name);
        write_program(&file, format!("#!/bin/sh\n{script}"));
    }

    /// What was asked so far, in the order in which it was done with.
    pub fn requests(&self) -> Vec<Request> {
        self.settle();
        let log = fs::read_to_string(self.dir.join("access.log")).unwrap();
        log.lines().map(Request::parse).filter(|request| request.uri != SETTLED).collect()
    }

    /// Waits until what was answered is in the log: nginx writes a line only after the answer is out,
    /// and takes the next request after that.
    fn settle(&self) {
        let mut line = TcpStream::connect(("127.0.0.1", self.port(Face::Plain))).unwrap();
        line.write_all(format!("GET {SETTLED} HTTP/1.0\r\n\r\n").as_bytes()).unwrap();
        line.read_to_end(&mut Vec::new()).unwrap();
    }

    /// Forgets what was asked so far.
    pub fn forget_requests(&self) {
        self.settle();
        fs::write(self.dir.join("access.log"), "").unwrap();
    }

    /// Its processes, those of git included: for those who measure.
    pub fn processes(&self) -> Vec<rustix::process::Pid> {
        let all = std::iter::once(&self.nginx).chain(&self.gateways);
        all.flat_map(Running::processes).collect()
    }
}

impl Request {
    fn parse(line: &str) -> Self {
        let fields: Vec<&str> = line.split('\t').collect();
        let [method, uri, status, git_protocol, connection, authorized, port, http] = fields[..]
        else {
            panic!("an access log that nobody wrote: {line:?}");
        };
        Self {
            method: method.to_owned(),
            uri: uri.to_owned(),
            status: status.parse().unwrap(),
            git_protocol: git_protocol.to_owned(),
            connection: connection.parse().unwrap(),
            authorized: authorized == "yes",
            port: port.parse().unwrap(),
            http: http.to_owned(),
        }
    }
}

/// The text of `nginx.conf`.
fn configuration(machine: &Sandbox, directory: &std::path::Path, ports: &[u16]) -> String {
    let directory = text(directory);
    let mut servers = String::new();
    for ((face, certificate), port) in FACES.iter().zip(ports) {
        let tls = match face {
            Face::Plain => String::new(),
            _ => format!(
                "ssl_certificate {directory}/tls/{certificate}.pem; \
                 ssl_certificate_key {directory}/tls/{certificate}.pem;"
            ),
        };
        let client = match face {
            Face::ClientCertificate => {
                format!("ssl_client_certificate {directory}/tls/ca.pem; ssl_verify_client on;")
            }
            _ => String::new(),
        };
        let listen = if *face == Face::Plain { "" } else { " ssl http2" };
        let sixth = match has_ipv6() {
            true => format!("listen [::1]:{port}{listen};"),
            false => String::new(),
        };
        let _ = writeln!(
            servers,
            "server {{ listen 127.0.0.1:{port}{listen}; {sixth} {tls} {client} include ways.conf; }}"
        );
    }
    let other = ports[FACES.iter().position(|(face, _)| *face == Face::Other).unwrap()];
    fs::write(format!("{directory}/ways.conf"), ways(directory, other)).unwrap();
    let backend = git_exec_path(machine).join("git-http-backend");
    let (backend, server) = (text(&backend), machine.path("server"));
    let (server, home) = (text(&server), machine.path("home"));
    let home = text(&home);
    format!(
        r#"daemon off; master_process off; worker_rlimit_nofile 4096;
pid {directory}/nginx.pid;
events {{ worker_connections 1024; }}
http {{
  log_format tests '$request_method\t$request_uri\t$status\t$http_git_protocol\t$connection\t$has_credentials\t$server_port\t$server_protocol';
  access_log {directory}/access.log tests;
  keepalive_requests 100000; client_max_body_size 0; default_type text/html;
  client_body_temp_path {directory}/tmp/b; proxy_temp_path {directory}/tmp/p;
  fastcgi_temp_path {directory}/tmp/f; uwsgi_temp_path {directory}/tmp/u; scgi_temp_path {directory}/tmp/s;
  fastcgi_max_temp_file_size 0; fastcgi_read_timeout 300s;
  ssl_session_cache shared:tests:10m; ssl_protocols TLSv1.2 TLSv1.3;

  map $http_authorization $has_credentials {{ default yes; "" no; }}
  map $uri $path_of_repository {{ default $uri; "~^/(?:v0|auth|flaky)(/.*)$" $1; }}
  map $uri $git_protocol {{ default $http_git_protocol; "~^/v0/" ""; }}
  map $uri $script {{ default {backend}; "~^/cgi/([a-z0-9-]+)/" {directory}/cgi/$1; }}
  split_clients $request_id $out_of_order {{ 50% 1; * ""; }}

  fastcgi_param REQUEST_METHOD $request_method; fastcgi_param QUERY_STRING $query_string;
  fastcgi_param CONTENT_TYPE $content_type; fastcgi_param CONTENT_LENGTH $content_length;
  fastcgi_param REMOTE_USER $remote_user; fastcgi_param REMOTE_ADDR $remote_addr;
  fastcgi_param HTTP_GIT_PROTOCOL $git_protocol; fastcgi_param GIT_PROTOCOL $git_protocol;
  fastcgi_param SCRIPT_FILENAME $script; fastcgi_param PATH_INFO $path_of_repository;
  fastcgi_param GIT_PROJECT_ROOT {server}; fastcgi_param GIT_HTTP_EXPORT_ALL 1;
  fastcgi_param HOME {home};
  {servers}
}}
"#
    )
}

/// The locations, the same on every port.
fn ways(directory: &str, other: u16) -> String {
    let mut ways = format!(
        r#"location / {{ fastcgi_pass unix:{directory}/socket; }}
location = {SETTLED} {{ return 204; }}
location /cgi/ {{ fastcgi_buffering off; fastcgi_pass unix:{directory}/socket; }}
location /auth/ {{ auth_basic git; auth_basic_user_file {directory}/users; fastcgi_pass unix:{directory}/socket; }}
location /flaky/ {{ if ($out_of_order) {{ return 503; }} fastcgi_pass unix:{directory}/socket; }}
location /dumb/ {{ alias {directory}/../server/; }}
location /loop/ {{ return 302 $request_uri; }}
location ~ ^/elsewhere/(.*)$ {{ return 302 https://127.0.0.1:{other}/auth/$1$is_args$args; }}
location /busy/ {{ add_header Retry-After 120 always; return 503; }}
location /status/401/ {{ add_header WWW-Authenticate 'Basic realm="git"' always; return 401; }}
location /status/429/ {{ add_header Retry-After 120 always; return 429; }}
"#
    );
    for status in [403, 404, 500, 503] {
        let _ = writeln!(ways, "location /status/{status}/ {{ return {status}; }}");
    }
    for status in [301, 302, 307, 308] {
        let _ = writeln!(
            ways,
            "location ~ ^/redirect/{status}/(.*)$ \
             {{ return {status} $scheme://$http_host/$1$is_args$args; }}"
        );
    }
    ways
}
