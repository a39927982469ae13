//! Message brokers: RabbitMQ with its STOMP plug-in and ActiveMQ, as Debian packages them, each in a
//! throw-away directory and with users, certificates and ports of its own. A keeper, which is a shell, starts
//! one and ends it when the test process lets go of it or dies: brokers that are shared by all tests
//! outlive the thread that asked first.
//!
//! Their start scripts are not used: they read the machine's configuration, change the user and put
//! themselves into the background.

use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use super::certificates::Certificates;
use super::free_port;
use crate::sandbox::{Ran, set_mode, text, wait_until};

/// Listens to commits and tells what came of them; nothing else.
pub const AGENT: &str = "agent:agentpw";
/// Announces commits; nothing else.
pub const HOOK: &str = "hook:hookpw";
/// May do everything, and has a password with every character that is hard to say.
pub const ODD: &str = "odd:p:a\\b c@%41";

/// Another name for this machine, under which each listens with TLS as well, and for which it has no
/// certificate.
pub const ELSEWHERE: &str = "127.0.0.2";

const RABBITMQ: &str = "/usr/lib/rabbitmq/bin/rabbitmq-server";
const ACTIVEMQ: &str = "/usr/share/activemq/bin/activemq.jar";

/// Which broker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    RabbitMq,
    ActiveMq,
}

/// Both.
pub const KINDS: [Kind; 2] = [Kind::RabbitMq, Kind::ActiveMq];

/// A broker.
pub struct Broker {
    kind: Kind,
    dir: PathBuf,
    port: u16,
    tls_port: u16,
    keeper: Option<Child>,
}

impl Broker {
    /// The one that all tests share; nobody may hurt it.
    pub fn shared(kind: Kind) -> &'static Self {
        static RABBIT: OnceLock<Broker> = OnceLock::new();
        static ACTIVE: OnceLock<Broker> = OnceLock::new();
        match kind {
            Kind::RabbitMq => RABBIT.get_or_init(|| Self::start(kind)),
            Kind::ActiveMq => ACTIVE.get_or_init(|| Self::start(kind)),
        }
    }

    /// One to be hurt.
    pub fn start(kind: Kind) -> Self {
        let directory = tempfile::Builder::new().prefix("pmpy-broker-").tempdir().unwrap().keep();
        let (port, tls_port) = (free_port(), free_port());
        let mut broker = Self { kind, dir: directory, port, tls_port, keeper: None };
        broker.prepare();
        broker.start_again();
        broker
    }

    /// Its address without TLS.
    pub fn url(&self) -> String {
        format!("stomp://127.0.0.1:{}", self.port)
    }

    /// Its address with TLS; the certificate is for this name.
    pub fn tls_url(&self) -> String {
        format!("stomps://localhost:{}", self.tls_port)
    }

    /// Where it listens without TLS.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Where it listens with TLS.
    pub fn tls_port(&self) -> u16 {
        self.tls_port
    }

    /// The certificate of the authority that signed its own.
    pub fn ca_file(&self) -> PathBuf {
        self.dir.join("ca.pem")
    }

    /// Ends it as a crash would.
    pub fn kill(&self) {
        kill_process(self.pid(), Signal::KILL).unwrap();
        wait_until("the broker is gone", || {
            TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).is_err()
        });
    }

    /// Stops it where it stands: it takes connections and does nothing.
    pub fn hang(&self) {
        kill_process(self.pid(), Signal::STOP).unwrap();
    }

    /// Lets it go on after [`Broker::hang`].
    pub fn resume(&self) {
        kill_process(self.pid(), Signal::CONT).unwrap();
    }

    /// Starts it, with all that it still knows.
    pub fn start_again(&mut self) {
        self.let_go(Leftovers::Keep);
        let program = match self.kind {
            Kind::RabbitMq => RABBITMQ,
            Kind::ActiveMq => ACTIVEMQ,
        };
        assert!(Path::new(program).exists(), "there is no {program} (tests/run installs it)");
        let keeper = Command::new("sh")
            .args(["-c", &self.script()])
            .env_clear()
            .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
            .env("LANG", "C.UTF-8")
            .env("HOME", &self.dir)
            .current_dir(&self.dir)
            // Ctrl-C is for the tests; the keeper hears of their end.
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(fs::File::create(self.dir.join("console")).unwrap())
            .stderr(fs::File::create(self.dir.join("errors")).unwrap())
            .spawn()
            .unwrap();
        self.keeper = Some(keeper);
        wait_until(&format!("{:?} takes clients ({})", self.kind, self.dir.display()), || {
            takes_clients(self.port)
        });
    }

    fn pid(&self) -> Pid {
        let text = fs::read_to_string(self.dir.join("pid")).unwrap();
        Pid::from_raw(text.trim().parse().unwrap()).unwrap()
    }

    fn prepare(&self) {
        Certificates::get().write_into(&self.dir);
        match self.kind {
            Kind::RabbitMq => self.prepare_rabbitmq(),
            Kind::ActiveMq => self.prepare_activemq(),
        }
    }

    fn put(&self, name: &str, content: &str) {
        fs::write(self.dir.join(name), content).unwrap();
    }

    fn prepare_rabbitmq(&self) {
        let Self { port, tls_port, .. } = self;
        let directory = text(&self.dir);
        self.put(
            "rabbitmq.conf",
            &format!(
                "listeners.tcp = none\nstomp.listeners.tcp.1 = 127.0.0.1:{port}\n\
                 stomp.listeners.ssl.1 = 127.0.0.1:{tls_port}\n\
                 stomp.listeners.ssl.2 = {ELSEWHERE}:{tls_port}\n\
                 ssl_options.cacertfile = {directory}/ca.pem\n\
                 ssl_options.certfile = {directory}/good.pem\nssl_options.keyfile = {directory}/good.pem\n\
                 ssl_options.verify = verify_none\nload_definitions = {directory}/definitions.json\n\
                 log.file = {directory}/log/rabbit.log\nlog.console = false\n\
                 vm_memory_high_watermark.absolute = 1GB\ndisk_free_limit.absolute = 50MB\n"
            ),
        );
        let users = [AGENT, HOOK, ODD].map(|login| {
            let (name, password) = login.split_once(':').unwrap();
            serde_json::json!({ "name": name, "password": password, "tags": "" })
        });
        let permission = |user: &str, configure: &str, write: &str, read: &str| {
            serde_json::json!({
                "user": user, "vhost": "/", "configure": configure, "write": write, "read": read,
            })
        };
        let own = "^stomp-.*|^amq[.]topic$";
        let definitions = serde_json::json!({
            "users": users,
            "vhosts": [{ "name": "/" }],
            "permissions": [
                permission("odd", ".*", ".*", ".*"),
                permission("agent", own, own, own),
                permission("hook", "^$", "^amq[.]topic$", "^$"),
            ],
            "topic_permissions": [{
                "user": "agent", "vhost": "/", "exchange": "amq.topic",
                "write": "^future[.]events[.].*", "read": "^future[.].*",
            }],
        });
        self.put("definitions.json", &definitions.to_string());
        self.put("enabled_plugins", "[rabbitmq_stomp].\n");
        self.put("advanced.config", "[].\n");
        self.put(".erlang.cookie", "onlyofthistest");
        set_mode(&self.dir.join(".erlang.cookie"), 0o400);
        // Those that are not for clients: who is where, and node to node.
        self.put("ports", &format!("{} {}", free_port(), free_port()));
    }

    fn prepare_activemq(&self) {
        let Self { port, tls_port, .. } = self;
        let directory = text(&self.dir);
        let users: String = [(AGENT, "agents"), (HOOK, "hooks"), (ODD, "admins")]
            .map(|(login, group)| {
                let (name, password) = login.split_once(':').unwrap();
                format!(
                    "<authenticationUser username=\"{name}\" password=\"{password}\" \
                     groups=\"{group}\"/>"
                )
            })
            .concat();
        let entry = |topic: &str, read: &str, write: &str| {
            format!(
                "<authorizationEntry topic=\"{topic}\" read=\"{read}\" write=\"{write}\" \
                 admin=\"agents,hooks,admins\"/>"
            )
        };
        let entries = [
            entry("&gt;", "admins", "admins"),
            entry("future.git.commits", "agents,admins", "hooks,admins"),
            entry("future.events.&gt;", "agents,admins", "agents,hooks,admins"),
        ]
        .concat();
        self.put(
            "activemq.xml",
            &format!(
                r#"<beans xmlns="http://www.springframework.org/schema/beans"
 xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance"
 xsi:schemaLocation="http://www.springframework.org/schema/beans
 http://www.springframework.org/schema/beans/spring-beans-2.0.xsd
 http://activemq.apache.org/schema/core http://activemq.apache.org/schema/core/activemq-core.xsd">
<broker xmlns="http://activemq.apache.org/schema/core" brokerName="test" useJmx="false"
  persistent="false" advisorySupport="false" dataDirectory="{directory}/data">
 <plugins>
  <simpleAuthenticationPlugin><users>{users}</users></simpleAuthenticationPlugin>
  <authorizationPlugin><map><authorizationMap><authorizationEntries>{entries}
  </authorizationEntries></authorizationMap></map></authorizationPlugin>
 </plugins>
 <sslContext><sslContext keyStore="file:{directory}/server.p12" keyStoreType="PKCS12"
  keyStorePassword="changeit"/></sslContext>
 <systemUsage><systemUsage><memoryUsage><memoryUsage limit="128 mb"/></memoryUsage>
  </systemUsage></systemUsage>
 <transportConnectors>
  <transportConnector name="stomp" uri="stomp+nio://127.0.0.1:{port}"/>
  <transportConnector name="stomps" uri="stomp+nio+ssl://127.0.0.1:{tls_port}"/>
  <transportConnector name="elsewhere" uri="stomp+nio+ssl://{ELSEWHERE}:{tls_port}"/>
 </transportConnectors>
</broker></beans>
"#
            ),
        );
        self.put(
            "log4j.properties",
            &format!(
                "log4j.rootLogger=INFO, f\nlog4j.appender.f=org.apache.log4j.FileAppender\n\
                 log4j.appender.f.file={directory}/activemq.log\n\
                 log4j.appender.f.layout=org.apache.log4j.SimpleLayout\n"
            ),
        );
        fs::create_dir(self.dir.join("tmp")).unwrap();
        let mut pack = Command::new("openssl");
        pack.args(["pkcs12", "-export", "-passout", "pass:changeit", "-in", "good.pem"]);
        Ran::of(pack.args(["-out", "server.p12"]).current_dir(&self.dir)).ok();
    }

    /// Starts it, tells its process in `pid`, and ends it when the input ends.
    fn script(&self) -> String {
        let directory = text(&self.dir);
        let (before, start) = match self.kind {
            Kind::RabbitMq => {
                let ports = fs::read_to_string(self.dir.join("ports")).unwrap();
                let (names, nodes) = ports.split_once(' ').unwrap();
                (
                    format!(
                        "export RABBITMQ_CONF_ENV_FILE=/dev/null RABBITMQ_NODENAME=test{names}@localhost \
                         ERL_EPMD_PORT={names} ERL_EPMD_ADDRESS=127.0.0.1 RABBITMQ_DIST_PORT={nodes} \
                         RABBITMQ_MNESIA_BASE={directory}/mnesia RABBITMQ_LOG_BASE={directory}/log \
                         RABBITMQ_PID_FILE={directory}/own-pid RABBITMQ_CONFIG_FILE={directory}/rabbitmq \
                         RABBITMQ_ADVANCED_CONFIG_FILE={directory}/advanced.config \
                         RABBITMQ_ENABLED_PLUGINS_FILE={directory}/enabled_plugins \
                         RABBITMQ_GENERATED_CONFIG_DIR={directory}/generated \
                         RABBITMQ_FEATURE_FLAGS_FILE={directory}/feature_flags RABBITMQ_ALLOW_INPUT=1\n\
                         export RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS='-kernel inet_dist_use_interface \
                         {{127,0,0,1}} +S 2:2'\n\
                         mkdir -p log generated mnesia\n\
                         # Else the broker starts one that outlives it.\n\
                         epmd -port {names} -address 127.0.0.1 </dev/null & more=$!\n"
                    ),
                    // With ALLOW_INPUT, the script becomes the broker.
                    format!("{RABBITMQ} -noinput"),
                )
            }
            Kind::ActiveMq => (
                "more=\n".to_owned(),
                format!(
                    "java -Xms32m -Xmx256m -XX:+UseSerialGC -XX:TieredStopAtLevel=1 -Xshare:auto \
                     -Djava.io.tmpdir={directory}/tmp -Djava.net.preferIPv4Stack=true \
                     -Dactivemq.home=/usr/share/activemq -Dactivemq.base={directory} \
                     -Dactivemq.conf={directory} -Dactivemq.data={directory}/data \
                     -Dlog4j.configuration=file:{directory}/log4j.properties \
                     -jar {ACTIVEMQ} start xbean:file:{directory}/activemq.xml"
                ),
            ),
        };
        format!(
            "{before}{start} </dev/null & echo $! > pid\n\
             cat >/dev/null\n\
             kill -KILL $(cat pid) $more\nwait\n\
             [ -e keep ] || rm -rf {directory}\n"
        )
    }

    fn let_go(&mut self, leftovers: Leftovers) {
        let Some(mut keeper) = self.keeper.take() else { return };
        let keep = self.dir.join("keep");
        match leftovers {
            Leftovers::Keep => fs::write(keep, "").unwrap(),
            Leftovers::Remove => drop(fs::remove_file(keep)),
        }
        drop(keeper.stdin.take());
        keeper.wait().unwrap();
    }
}

/// What becomes of a broker's directory.
#[derive(Clone, Copy)]
enum Leftovers {
    Keep,
    Remove,
}

impl Drop for Broker {
    fn drop(&mut self) {
        self.let_go(Leftovers::Remove);
    }
}

/// Whether a client is taken at `port`: it listens before it knows its users.
fn takes_clients(port: u16) -> bool {
    let Ok(mut client) = TcpStream::connect((Ipv4Addr::LOCALHOST, port)) else { return false };
    client.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    let (user, password) = HOOK.split_once(':').unwrap();
    let connect =
        format!("CONNECT\naccept-version:1.2\nhost:/\nlogin:{user}\npasscode:{password}\n\n\0");
    let mut answer = [0; 9];
    client.write_all(connect.as_bytes()).is_ok()
        && client.read_exact(&mut answer).is_ok()
        && &answer == b"CONNECTED"
}

/// A file with `login` in it, as `login_file` wants it.
pub fn login_file(directory: &Path, login: &str) -> PathBuf {
    let file = directory.join("bus.login");
    fs::write(&file, format!("{login}\n")).unwrap();
    set_mode(&file, 0o600);
    file
}
