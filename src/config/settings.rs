//! The one table of all settings. A key that stands here is accepted in the file and in the
//! environment, checked as it says here, and described in the reference; no other key is.

/// The most shards an outbox can have: one for each slot.
pub(super) const SHARDS_MAX: u16 = 256;

/// The keys of one table of the file.
pub(super) struct Table {
    /// As in the file; empty for the keys above all tables.
    pub name: &'static str,
    /// For the reference.
    pub meaning: &'static str,
    /// Why those of its settings take a restart that do.
    pub at_restart: &'static str,
    pub settings: &'static [Setting],
}

/// One key.
pub(super) struct Setting {
    pub key: &'static str,
    pub kind: Kind,
    pub default: DefaultValue,
    pub meaning: &'static str,
    /// Whether it may change while everything runs: each use reads it anew.
    pub at_run_time: bool,
}

impl Setting {
    const fn at_run_time(self) -> Setting {
        Setting { at_run_time: true, ..self }
    }
}

#[derive(Clone, Copy)]
pub(super) enum Kind {
    Text,
    Flag,
    /// A whole number from `min` to `max`.
    Number {
        min: u64,
        max: u64,
    },
}

pub(super) enum DefaultValue {
    Text(&'static str),
    Flag(bool),
    Number(u64),
    /// None that fits in a value; the words say what happens instead.
    Words(&'static str),
}

const fn text(key: &'static str, default: DefaultValue, meaning: &'static str) -> Setting {
    Setting { key, kind: Kind::Text, default, meaning, at_run_time: false }
}

const fn number(key: &'static str, default: u64, (min, max): (u64, u64), meaning: &'static str) -> Setting {
    Setting {
        key,
        kind: Kind::Number { min, max },
        default: DefaultValue::Number(default),
        meaning,
        at_run_time: false,
    }
}

const MIB: u64 = 1024 * 1024;
const NONE: DefaultValue = DefaultValue::Words("none");
const REQUIRED: DefaultValue = DefaultValue::Words("required");

pub(super) static ROOT: Table = Table {
    name: "",
    meaning: "Keys above all tables.",
    at_restart: "what is stored has its name or its place from it",
    settings: &[
        text(
            "namespace",
            DefaultValue::Text("default"),
            "The installation's name; it begins the names of all that is kept in ZooKeeper, Kafka and the \
             databases. A small letter, then a-z, 0-9 and `-`, 40 characters at most. It can't be changed \
             after `onecommit init`.",
        ),
        text(
            "data_dir",
            DefaultValue::Text("onecommit-data"),
            "The directory, on a local disk, in which everything embedded keeps its files, and relays the locks \
             by which one that is started again goes on at once. A relative one begins at the directory in which \
             the process was started.",
        ),
        text(
            "schema",
            DefaultValue::Text("onecommit"),
            "The PostgreSQL schema of Onecommit's tables: an identifier that needs no quotes.",
        ),
        text(
            "kafka_prefix",
            DefaultValue::Words("`onecommit.<namespace>.`"),
            "What the names of Onecommit's own topics and every `transactional.id` begin with, where ACLs ask \
             for another one.",
        ),
    ],
};

pub(super) static PARTICIPANT: Table = Table {
    name: "participants.NAME",
    meaning: "A database that can take part. NAME begins with a small letter and has a-z, 0-9 and `_` \
              (no `__`), 40 characters at most. Without any participant there is one, `main`: the SQLite file \
              `main.db` in `data_dir`, with `outbox = true`.",
    at_restart: "connections are opened by it, and what `init` made is fixed",
    settings: &[
        text(
            "url",
            REQUIRED,
            "`postgresql://user@host:5432/database`, with libpq's parameters behind a `?` (`sslmode` and others: \
             [Security](security.md)); or `sqlite:///relative.db`, or `sqlite:////absolute/path.db` (four slashes).",
        ),
        Setting {
            key: "outbox",
            kind: Kind::Flag,
            default: DefaultValue::Flag(false),
            meaning: "Messages published through this participant wait in it, and a relay delivers them. At least \
                      one participant needs it: without, `init`, `relay`, `status`, `dead-letter` and `doctor` end \
                      with an error.",
            at_run_time: false,
        },
        Setting {
            key: "shards",
            kind: Kind::Number { min: 1, max: SHARDS_MAX as u64 },
            default: DefaultValue::Words("2 for PostgreSQL, 1 for SQLite"),
            meaning: "Into how many shards the outbox is divided; each is delivered by one relay at a time. \
                      SQLite has one. It is fixed by `onecommit init`.",
            at_run_time: false,
        },
    ],
};

pub(super) static ZOOKEEPER: Table = Table {
    name: "zookeeper",
    meaning: "Where leases, decisions, locks, groups and the settings that change at run time are kept. Without \
              this table leases are kept beside the outbox (PostgreSQL) or in the file `leases.db` in `data_dir` \
              (SQLite), and everything else in files in `data_dir`.",
    at_restart: "sessions are opened by it",
    settings: &[
        text("servers", REQUIRED, "`host:port` of each server, separated by commas."),
        text("chroot", NONE, "The path below which everything is kept, beginning with `/`."),
        number(
            "session_timeout_ms",
            2_000,
            (500, 60_000),
            "After this long without a sign of life a relay or a program counts as dead: others take its shards \
             and its locks, and settle its transactions.",
        ),
        text("user", NONE, "User for ZooKeeper's digest authentication; `password` goes with it."),
        text("password", NONE, "Its password: better in the environment than in the file."),
        Setting {
            key: "require_acl",
            kind: Kind::Flag,
            default: DefaultValue::Flag(false),
            meaning: "Refuse to use nodes that anybody may change; `user` and `password` go with it. Without it \
                      `onecommit status` and `doctor` warn of them. See [Security](security.md).",
            at_run_time: false,
        },
        text(
            "tls_ca",
            NONE,
            "A file in PEM with the authorities that sign the servers' certificates. With it every connection is \
             by TLS, and `servers` names the ports for it.",
        ),
        text(
            "tls_cert",
            NONE,
            "The client's certificate in PEM, which ZooKeeper asks for unless told otherwise; `tls_key` goes \
             with it.",
        ),
        text("tls_key", NONE, "Its private key in PEM, without a passphrase."),
    ],
};

pub(super) static RELAY: Table = Table {
    name: "relay",
    meaning: "How a relay works. The defaults are meant to stay; change one with a measurement at hand.",
    at_restart: "it is what a relay's buffers, connections and limits were made with, or what other relays count by",
    settings: &[
        number(
            "lease_timeout_ms",
            2_000,
            (500, 60_000),
            "Without `[zookeeper]`: after this long without a sign of life a relay counts as dead.",
        ),
        number("batch_messages", 5_000, (1, 100_000), "Most messages in one Kafka transaction.")
            .at_run_time(),
        number("batch_bytes", 8 * MIB, (1_024, 256 * MIB), "Most bytes in one Kafka transaction.")
            .at_run_time(),
        number("poll_busy_ms", 5, (1, 1_000), "Pause between two looks at the outbox while messages come.")
            .at_run_time(),
        number("poll_idle_ms", 40, (1, 10_000), "Pause between two looks at the outbox while none come.")
            .at_run_time(),
        number(
            "buffer_bytes",
            16 * MIB,
            (MIB, 1_024 * MIB),
            "Most bytes read and not yet delivered, over all shards of one relay together.",
        ),
        number("prune_messages", 10_000, (1, 1_000_000), "Delivered messages removed in one piece.")
            .at_run_time(),
        number(
            "truncate_bytes",
            64 * MIB,
            (1, i64::MAX as u64),
            "From this size on PostgreSQL's table is emptied at once when everything in it is delivered, where \
             the relay has the right to truncate it.",
        ),
        number(
            "truncate_lock_ms",
            20,
            (1, 1_000),
            "Longest wait for the table's lock to do that; who publishes waits as long.",
        ),
        number(
            "set_aside_max",
            100_000,
            (1, 10_000_000),
            "Most messages set aside in one shard: dead letters and what waits behind them or for a topic on \
             hold. Above it the shard stops, and says so.",
        )
        .at_run_time(),
        number("retry_first_ms", 100, (1, 60_000), "Longest wait before the first retry; it doubles."),
        number("retry_limit_ms", 5_000, (1, 600_000), "Longest wait before any retry."),
        number(
            "request_timeout_ms",
            10_000,
            (100, 300_000),
            "Longest wait for one answer of the outbox's database.",
        ),
        number(
            "shutdown_timeout_ms",
            15_000,
            (100, 600_000),
            "Longest time to finish what was begun after a signal to stop.",
        ),
    ],
};

pub(super) static COORDINATOR: Table = Table {
    name: "coordinator",
    meaning: "How transactions over several databases are run. The defaults are meant to stay; change one with a \
              measurement at hand.",
    at_restart: "it is what places, connections and retries were made with",
    settings: &[
        number(
            "deadline_ms",
            30_000,
            (100, 3_600_000),
            "How long a transaction may take, from its begin until its caller is told. Each wait for a lock of a \
             database lasts at most as long as was left of it at the begin, and may end that much behind it: two \
             transactions that wait for each other in two databases are seen by neither. A relay leaves their \
             messages in the outbox for so long, as proofs.",
        ).at_run_time(),
        number(
            "home_wait_ms",
            1_000,
            (0, 60_000),
            "How long the other branches of a decided transaction wait for the one with the messages to be \
             committed first, so that cause and effect are in order.",
        ).at_run_time(),
        number(
            "in_flight_max",
            1_000,
            (1, 100_000),
            "Most transactions of a process that are not at their end; more wait.",
        ),
        number(
            "connections",
            16,
            (1, 1_000),
            "Most connections of our own to one participant, by which prepared branches are ended.",
        ),
        number("sweep_interval_ms", 1_000, (50, 600_000), "Pause between two looks for dead coordinators.").at_run_time(),
        number("keep_days", 7, (1, 365), "How many days outcomes are kept, for whoever asks.").at_run_time(),
        number("outcomes_max", 100_000, (1, 10_000_000), "Most outcomes that are kept; the oldest go first.").at_run_time(),
        number("retry_first_ms", 50, (1, 60_000), "Longest wait before the first retry; it doubles."),
        number("retry_limit_ms", 5_000, (1, 600_000), "Longest wait before any retry."),
        number(
            "request_timeout_ms",
            10_000,
            (100, 300_000),
            "Longest wait for one answer of a database on connections of our own.",
        ),
    ],
};

pub(super) static TOPIC: Table = Table {
    name: "topics.NAME",
    meaning: "A topic that messages are delivered to, its name in quotes: `[topics.\"order.paid\"]`. Only in \
              the file: names of variables can't tell topics apart.",
    at_restart: "it belongs to the topic",
    settings: &[text(
        "on_poison",
        DefaultValue::Text("park"),
        "What happens with a message that can't be delivered. `park`: it becomes a dead letter, and later \
         messages of its key wait behind it. `pass`: later messages of its key go on. `stop`: the shard stops.",
    )
    .at_run_time()],
};

pub(super) static ADMIN: Table = Table {
    name: "admin",
    meaning: "Health and metrics of a relay, over HTTP: see [Operation](operation.md).",
    at_restart: "the server listens there from its start",
    settings: &[text(
        "listen",
        DefaultValue::Words("none: no HTTP at all"),
        "The address and port at which `onecommit relay` answers `/metrics`, `/healthz` and `/readyz`: \
         `127.0.0.1:9090`. Whoever reaches it may read them: there is no password and no TLS.",
    )],
};

/// What stands in no file: the level of the log has a variable of its own.
pub(super) static RUN_TIME: Table = Table {
    name: "",
    meaning: "Only at run time.",
    at_restart: "",
    settings: &[text(
        "log_level",
        DefaultValue::Words("what `ONECOMMIT_LOG` says, or `info`"),
        "How much is logged: `error`, `warn`, `info`, `debug` or `trace`.",
    )
    .at_run_time()],
};

impl Table {
    pub fn setting(&self, key: &str) -> Option<&'static Setting> {
        self.settings.iter().find(|setting| setting.key == key)
    }

    pub fn keys(&self) -> impl Iterator<Item = &'static str> {
        self.settings.iter().map(|setting| setting.key)
    }
}
