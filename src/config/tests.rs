//! What a user meets: files that are read, and files and variables that are refused.

use proptest::prelude::*;

use super::environment::name_of;
use super::kafka::REFUSED;
use super::settings::{ADMIN, COORDINATOR, Kind, PARTICIPANT, RELAY, ROOT, Setting, Table, ZOOKEEPER};
use super::*;

fn read(text: &str) -> Result<Config> {
    Config::from_toml(text, [])
}

fn read_env(text: &str, env: &[(&str, &str)]) -> Result<Config> {
    Config::from_toml(text, env.iter().map(|(name, value)| (name.to_string(), value.to_string())))
}

/// The error's text; every error here is one of configuration.
fn refused(result: Result<Config>) -> String {
    let error = result.expect_err("must be refused");
    assert_eq!(error.kind(), ErrorKind::Configuration, "{error}");
    error.to_string()
}

/// Each table with what else its keys need: a file in which one key can be added at the end.
fn tables() -> [(&'static Table, &'static str); 6] {
    [
        (&ROOT, ""),
        (&PARTICIPANT, "[participants.name]\n"),
        (&ZOOKEEPER, "[zookeeper]\n"),
        (&RELAY, "[relay]\n"),
        (&COORDINATOR, "[coordinator]\n"),
        (&ADMIN, "[admin]\n"),
    ]
}

/// What goes with a key so that the file is whole, and a value of it that is not its default.
fn sample(table: &Table, setting: &Setting) -> (&'static str, String) {
    let companions = match (table.name, setting.key) {
        ("participants.NAME", "url") => "",
        ("participants.NAME", _) => "url = \"postgresql://db/x\"\n",
        ("zookeeper", "servers") => "",
        ("zookeeper", "user") => "servers = \"zk:1\"\npassword = \"p\"\n",
        ("zookeeper", "password") => "servers = \"zk:1\"\nuser = \"u\"\n",
        ("zookeeper", "require_acl") => "servers = \"zk:1\"\nuser = \"u\"\npassword = \"p\"\n",
        ("zookeeper", "tls_cert") => "servers = \"zk:1\"\ntls_ca = \"c\"\ntls_key = \"k\"\n",
        ("zookeeper", "tls_key") => "servers = \"zk:1\"\ntls_ca = \"c\"\ntls_cert = \"c\"\n",
        ("zookeeper", _) => "servers = \"zk:1\"\n",
        _ => "",
    };
    let value = match (setting.kind, setting.key) {
        (Kind::Flag, _) => "true".to_string(),
        // Beside its maximum this one also has to stay below retry_limit_ms, see Relay.
        (Kind::Number { min, .. }, "retry_first_ms" | "poll_busy_ms") => min.to_string(),
        (Kind::Number { max, .. }, _) => max.to_string(),
        (Kind::Text, "url") => "sqlite:///sample.db".to_string(),
        (Kind::Text, "servers") => "a:1,[::1]:2".to_string(),
        (Kind::Text, "listen") => "[::1]:9090".to_string(),
        (Kind::Text, "chroot") => "/a/b".to_string(),
        (Kind::Text, key) => format!("sample{}", key.len()),
    };
    (companions, value)
}

#[test]
fn every_setting_reaches_the_configuration_from_file_and_environment_alike() {
    for (table, header) in tables() {
        for setting in table.settings {
            let (companions, value) = sample(table, setting);
            let before = format!("{header}{companions}");
            let quoted =
                if matches!(setting.kind, Kind::Text) { format!("{value:?}") } else { value.clone() };
            let from_file = read(&format!("{before}{} = {quoted}\n", setting.key));
            let variable = name_of(table, setting.key, "name");
            let from_env = read_env(&before, &[(&variable, &value)]);
            let from_file = from_file.unwrap_or_else(|error| panic!("{}: {error}", setting.key));
            assert_eq!(from_file, from_env.unwrap(), "{variable}");
            assert_ne!(Some(from_file), read(&before).ok(), "{variable} changes nothing");
        }
    }
}

#[test]
fn an_empty_and_an_absent_file_are_one_embedded_participant() {
    let config = read("").unwrap();
    assert_eq!((config.namespace.as_str(), config.schema.as_str()), ("default", "onecommit"));
    assert_eq!(config.kafka_prefix(), "onecommit.default.");
    assert_eq!((&config.kafka, &config.zookeeper), (&None, &None));
    let (name, main) = config.outboxes().next().unwrap();
    assert_eq!((name.as_str(), main.shards), ("main", 1));
    assert_eq!(main.url, DatabaseUrl::Sqlite("onecommit-data/main.db".into()));
    let moved = read("data_dir = \"/var/lib/oc\"\n[participants]\n").unwrap();
    assert_eq!(moved.outboxes().next().unwrap().1.url, DatabaseUrl::Sqlite("/var/lib/oc/main.db".into()));
    let none = read("[participants.a]\nurl = \"sqlite:///a.db\"").unwrap();
    assert_eq!((none.participants.len(), none.outboxes().count()), (1, 0));
}

#[test]
fn a_named_file_has_to_be_there_and_to_be_text() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("other.toml");
    let message = refused(Config::load(Some(&path)));
    assert!(message.contains("not there") && message.contains("other.toml"), "{message}");
    std::fs::write(&path, b"namespace = \"\xff\"").unwrap();
    assert!(refused(Config::load(Some(&path))).contains("not UTF-8"));
    std::fs::write(&path, "namespace = \"shop\"").unwrap();
    assert_eq!(Config::load(Some(&path)).unwrap().namespace.as_str(), "shop");
    let absent = dir.path().join("absent.toml");
    assert_eq!(read_file(&absent, false).unwrap(), "");
    assert!(read_file(dir.path(), false).is_err(), "a directory is not an absent file");
}

#[test]
fn errors_name_key_place_and_the_way_out() {
    let cases = [
        ("namespce = \"x\"", "unknown key \"namespce\" above all tables: did you mean namespace?", ":1:1"),
        ("\n  [settler]\nx = 1", "unknown key \"settler\"", ":2:4"),
        ("[relays]", "did you mean relay?", ":1:2"),
        (
            "[relay]\nlease_timeout = 1",
            "[relay] lease_timeout: unknown key: did you mean lease_timeout_ms?",
            ":2:1",
        ),
        (
            "[relay]\nbatch_bytes = \"4M\"",
            "expected a whole number from 1024 to 268435456, found a text",
            ":2:1",
        ),
        ("[relay]\nbatch_messages = -1", "expected a whole number from 1 to 100000, found -1", ":2:1"),
        ("[relay]\nretry_first_ms = 6000", "6000 is more than retry_limit_ms, which is 5000", ":2:1"),
        ("relay = 3", "relay: expected a table [relay], found a whole number", ":1:1"),
        ("[participants.orders]\noutbox = true", "[participants.orders] url is missing", ":1:15"),
        ("[participants.Orders]\n", "small letter", ":1:15"),
        ("participants.a.outbox = \"yes\"", "expected true or false, found a text", ":1:16"),
        ("[zookeeper]\nchroot = \"/x\"", "[zookeeper] servers is missing", ":1:2"),
        ("[zookeeper]\nservers = \"a:1/x\"", "belongs into chroot", ":2:1"),
        ("[zookeeper]\nservers = \"a:1\"\nuser = \"u\"", "password has to be given with it", ":3:1"),
        ("[admin]\nlisten = \"localhost:9090\"", "write 127.0.0.1:9090", ":2:1"),
        ("[zookeeper]\nservers = \"a:1\"\ntls_cert = \"u\"", "tls_key has to be given with it", ":3:1"),
        (
            "[zookeeper]\nservers = \"a:1\"\ntls_cert = \"u\"\ntls_key = \"k\"",
            "tls_ca has to be given with it",
            ":3:1",
        ),
        ("[zookeeper]\nservers = \"a b:1\"\ntls_ca = \"c\"", "no spaces", ":2:1"),
        ("[zookeeper]\nservers = \"a,b..c:1\"\ntls_ca = \"c\"", "\"b..c\" is no host", ":2:1"),
        ("[zookeeper]\nservers = \"1.2.3.4.5:1\"\ntls_ca = \"c\"", "is no host", ":2:1"),
        ("[zookeeper]\nservers = \"[::1]:1,1.2.3.4,a_b.c-d:1\"\ntls_ca = \"\"", "give a file in PEM", ":3:1"),
        ("namespace = \"Shop\"", "small letter", ":1:1"),
        ("data_dir = \"\"", "data_dir: it is empty", ":1:1"),
        ("schema = \"my-schema\"", "no plain identifier", ":1:1"),
        ("schema = \"pg_x\"", "keeps for itself", ":1:1"),
        ("kafka_prefix = \"a b\"", "can't begin a topic's name", ":1:1"),
        ("a = [", "not valid TOML", ":1:"),
        ("[participants.a]\nurl = \"sqlite:///a\"\nshards = 2", "has one shard", ":3:1"),
    ];
    for (text, why, place) in cases {
        let message = refused(read(text));
        assert!(message.contains(why) && message.contains(&format!("onecommit.toml{place}")), "{message}");
    }
}

#[test]
fn a_variable_that_fits_no_setting_is_refused_by_name() {
    let cases = [
        ("ONECOMMIT_RELAY_BATCH_BYTES", "did you mean ONECOMMIT_RELAY__BATCH_BYTES?"),
        ("ONECOMMIT_PARTICIPANTS__ORDERS__URI", "did you mean ONECOMMIT_PARTICIPANTS__ORDERS__URL?"),
        ("ONECOMMIT_namespace", "did you mean ONECOMMIT_NAMESPACE?"),
        ("ONECOMMIT_PARTICIPANTS__URL", "fits no setting"),
        ("ONECOMMIT_KAFKA__", "fits no setting"),
        ("ONECOMMIT_", "fits no setting"),
        ("ONECOMMIT_RELAY__BATCH_BYTES", "expected a whole number from 1024 to 268435456, found \"x\""),
    ];
    for (variable, why) in cases {
        let message = refused(read_env("", &[(variable, "x")]));
        assert!(message.contains(why) && message.contains(variable), "{message}");
    }
    let others = [
        "PATH",
        "ONECOMMIT_LOG",
        "ONECOMMIT_FAILPOINTS",
        "ONECOMMIT_FAILPOINTS_LOG",
        "ONECOMMIT_TEST_SERVERS",
        "ONECOMMIT_RELAY_SERVICE_HOST",
        "ONECOMMIT_SERVICE_PORT_HTTP",
        "ONECOMMIT_PORT_80_TCP_ADDR",
        "ONECOMMIT_RELAY_PORT",
    ];
    for variable in others {
        assert_eq!(read_env("", &[(variable, "x")]).unwrap(), read("").unwrap(), "{variable}");
    }
}

#[test]
fn the_environment_wins_and_makes_tables_that_the_file_lacks() {
    let env = [
        ("ONECOMMIT_NAMESPACE", "env"),
        ("ONECOMMIT_PARTICIPANTS__A___URL", "postgres://db/a"),
        ("ONECOMMIT_KAFKA__BOOTSTRAP_SERVERS", "k:1"),
        ("ONECOMMIT_ZOOKEEPER__SERVERS", "z:1"),
    ];
    let config = read_env("namespace = \"file\"\n[kafka]\n\"linger.ms\" = 1", &env).unwrap();
    assert_eq!((config.namespace.as_str(), config.zookeeper.unwrap().servers.as_str()), ("env", "z:1"));
    let (name, participant) = config.participants.first_key_value().unwrap();
    assert_eq!((name.as_str(), participant.shards), ("a_", 2));
    let kafka = config.kafka.unwrap();
    assert_eq!((kafka["bootstrap.servers"].as_str(), kafka["linger.ms"].as_str()), ("k:1", "1"));
}

#[test]
fn kafka_takes_properties_in_every_form_and_refuses_what_the_guarantees_rest_on() {
    let head = "[kafka]\nbootstrap.servers = \"k:1\"\n";
    let text = format!("{head}linger.ms = 0x10\n\"socket.keepalive.enable\" = true\n");
    let kafka = read(&text).unwrap().kafka.unwrap();
    let pairs: Vec<_> = kafka.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    let expected = [
        ("bootstrap.servers", "k:1"),
        ("linger.ms", "16"),
        ("partitioner", "murmur2_random"),
        ("socket.keepalive.enable", "true"),
    ];
    assert_eq!(pairs, expected);
    for refusal in &REFUSED {
        for name in refusal.names {
            let message = refused(read(&format!("{head}\"{name}\" = \"1\"")));
            assert!(message.contains(name) && message.contains(refusal.reason), "{message}");
        }
    }
    let cases = [
        ("[kafka]", "bootstrap.servers is missing"),
        ("[kafka]\n\"bootstrap.server\" = \"k\"", "did you mean bootstrap.servers?"),
        ("[kafka]\nenable.idempotenze = 1", "librdkafka has no such property"),
        ("[kafka]\ncompresion.type = \"lz4\"", "did you mean compression.type?"),
        ("[kafka]\nlinger.ms = \"a\\u0000b\"", "can't hold NUL"),
        ("[kafka]\n\"bootstrap.servers\" = \" \"", "found nothing"),
        ("[kafka]\na.b = 1\n\"a.b\" = 1", "given twice"),
        ("[kafka]\nlinger.ms = [1]", "found a list"),
        ("[kafka]\npartitioner = \"murmur\"", "did you mean murmur2?"),
        ("[kafka]\npartitioner = \"random\"", "\"random\" is not allowed"),
        ("[kafka]\n\"test.mock.num.brokers\" = 1", "mock cluster"),
        ("[kafka]\ntoken.comand = \"x\"", "did you mean token.command?"),
        ("[kafka]\nbootstrap.servers = \"k:1\"\nsasl.mechanisms = \"oauthbearer\"", "needs token.command"),
    ];
    for (text, why) in cases {
        let message = refused(read(text));
        assert!(message.contains(why), "{message}");
    }
}

proptest! {
    #[test]
    fn numbers_are_taken_exactly_inside_their_bounds(at in 0..RELAY.settings.len(), number in any::<u64>()) {
        let setting = &RELAY.settings[at];
        let Kind::Number { min, max } = setting.kind else { panic!("all of [relay] are numbers") };
        for number in [min, max, min - 1, max + 1, number] {
            let env = [(name_of(&RELAY, setting.key, ""), number.to_string())];
            match Config::from_toml("", env) {
                Ok(_) => prop_assert!((min..=max).contains(&number)),
                Err(error) if (min..=max).contains(&number) => {
                    prop_assert!(error.to_string().contains("is more than"), "{}", error);
                }
                Err(error) => {
                    let bounds = format!("from {min} to {max}");
                    prop_assert!(error.to_string().contains(&bounds), "{}", error);
                }
            }
        }
    }

    #[test]
    fn whatever_is_written_is_read_or_refused(text in "(\\PC|[\\[\\]=\"'.\n])*", key in "[A-Z_]{0,20}") {
        let env = [(format!("ONECOMMIT_{key}"), text.clone())];
        for result in [Config::from_toml(&text, []), Config::from_toml("", env)] {
            if let Err(error) = result {
                prop_assert_eq!(error.kind(), ErrorKind::Configuration);
            }
        }
    }

    #[test]
    fn no_password_is_ever_shown(password in "[!-~ é]{0,6}SECRET[!-~ é]{0,6}") {
        let url = format!("postgresql://app:{password}@db/x");
        let query = format!("postgresql://db/x?password={}", password.replace('&', "%26"));
        let environments = [
            vec![("PARTICIPANTS__A__URL", url)],
            vec![("PARTICIPANTS__A__URL", query)],
            vec![("KAFKA__SASL_PASSWORD", password.clone())],
            vec![("KAFKA__TOKEN_COMMAND", password.clone())],
            vec![("ZOOKEEPER__USER", "u".to_string()), ("ZOOKEEPER__PASSWORD", password.clone())],
            vec![("ZOOKEEPER__PASSWORD", password.clone())],
        ];
        let file = "[kafka]\nbootstrap.servers = \"k:1\"\n[zookeeper]\nservers = \"z:1\"";
        for env in environments {
            let env = env.into_iter().map(|(name, value)| (format!("ONECOMMIT_{name}"), value));
            let shown = match Config::from_toml(file, env) {
                Ok(config) => format!("{config:?}"),
                Err(error) => format!("{error:?} {error}"),
            };
            prop_assert!(!shown.contains("SECRET"), "{}", shown);
        }
        let broken = format!("[zookeeper]\npassword = \"{password}\" x");
        if let Err(error) = Config::from_toml(&broken, []) {
            prop_assert!(!error.to_string().contains("SECRET"), "{}", error);
        }
    }
}
