//! Groups in a SQLite file, for processes of one machine that share a folder. A member is a row, and its sign of
//! life the lock of a file, which the kernel gives back when the process is gone; so nobody is taken for dead who
//! was only paused. Who watches looks again and again.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use rusqlite::{Connection, params};
use uuid::Uuid;

use super::{Group, GroupOf, GroupSeen, GroupSession, Member};
use crate::error::{Error, ErrorKind, Result};
use crate::failpoint;
use crate::id::MemberId;
use crate::sqlite::failure::from_sqlite;
use crate::sqlite::{Blocking, Life, Liveness, OwnFile, Place, begin, commit, open_own};

const FILE: OwnFile = OwnFile {
    name: "file of groups",
    application_id: i32::from_be_bytes(*b"ocgr"),
    version: 1,
    sql: "create table member (\
            position integer primary key autoincrement, id blob not null unique, band text not null, \
            name text not null, data blob not null) strict",
};
const BUSY: Duration = Duration::from_secs(10);
/// Pause between two looks of one who watches.
const PAUSE: Duration = Duration::from_millis(250);

/// One group of a folder of this machine: in its `groups.db`, and who is alive in `members/`.
pub struct FileGroup {
    data_dir: PathBuf,
    band: String,
}

impl FileGroup {
    /// What is missing is made when a session is opened.
    pub fn new(data_dir: impl AsRef<Path>, group: &GroupOf) -> Self {
        let band = match group {
            // No name of an application's group is empty.
            GroupOf::Nodes => String::new(),
            GroupOf::Named(name) => name.as_str().to_string(),
        };
        FileGroup { data_dir: data_dir.as_ref().to_path_buf(), band }
    }

    /// Whether anybody has ever joined any group there.
    pub fn is_in(data_dir: impl AsRef<Path>) -> bool {
        data_dir.as_ref().join("groups.db").exists()
    }
}

#[async_trait]
impl Group for FileGroup {
    async fn open(&self) -> Result<Box<dyn GroupSession>> {
        let (data_dir, band) = (self.data_dir.clone(), self.band.clone());
        let open = move |_: &mut ()| Rows::open(&data_dir, band);
        let rows = Blocking::new(()).call("open group", open).await?;
        let place = Arc::clone(&rows.place);
        Ok(Box::new(Session { rows: Blocking::new(rows), place }))
    }
}

struct Session {
    rows: Blocking<Rows>,
    place: Arc<Place>,
}

#[async_trait]
impl GroupSession for Session {
    async fn join(&mut self, member: &Member) -> Result<()> {
        let member = member.clone();
        self.rows.call("join group", move |rows| rows.join(&member)).await
    }

    async fn leave(&mut self, id: MemberId) -> Result<()> {
        self.rows.call("leave group", move |rows| rows.leave(id)).await
    }

    async fn members(&mut self) -> Result<Vec<Member>> {
        self.rows.call("look at group", |rows| rows.members()).await
    }

    async fn changed(&mut self, seen: &GroupSeen) -> Result<GroupSeen> {
        loop {
            let now = GroupSeen { members: self.members().await?, is_current: true };
            if now != *seen {
                return Ok(now);
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    fn is_over(&self) -> bool {
        self.place.check(ErrorKind::Fenced, "look at group").is_err()
    }
}

struct Rows {
    connection: Connection,
    place: Arc<Place>,
    file: PathBuf,
    band: String,
    liveness: Liveness,
    /// What ends with this session.
    lives: BTreeMap<Uuid, Life>,
}

impl Rows {
    fn open(data_dir: &Path, band: String) -> Result<Self> {
        const OPERATION: &str = "open group";
        let file = data_dir.join("groups.db");
        let open = || open_own(&file, &FILE, BUSY, OPERATION, |_| Ok(()));
        // Made first, so that there is a file to be known again.
        drop(open()?);
        let place = Arc::new(Place::of(&file));
        let connection = open()?;
        let liveness = Liveness::open(data_dir.join("members"))?;
        Ok(Rows { connection, place, file, band, liveness, lives: BTreeMap::new() })
    }

    /// In a file that nobody else can find any more, this session is nobody's.
    fn check(&self, operation: &'static str) -> Result<()> {
        self.place.check(ErrorKind::Fenced, operation)
    }

    fn join(&mut self, member: &Member) -> Result<()> {
        const OPERATION: &str = "join group";
        self.check(OPERATION)?;
        self.forget_the_dead(OPERATION)?;
        let id = member.id.0;
        if !self.lives.contains_key(&id) {
            let Some(life) = self.liveness.claim(id)? else {
                let why = "this member was joined in another session: join under an id of its own";
                return Err(Error::new(ErrorKind::Invalid, OPERATION, why).with("member", member.id));
            };
            self.lives.insert(id, life);
        }
        let transaction = begin(&mut self.connection, OPERATION)?;
        let sql = "insert into member (id, band, name, data) values (?1, ?2, ?3, ?4) \
                   on conflict (id) do update set name = excluded.name, data = excluded.data";
        let row = params![id.as_bytes().as_slice(), self.band, member.name, member.data];
        let failed = |error| from_sqlite(OPERATION, error).with("file", self.file.display());
        transaction.execute(sql, row).map_err(failed)?;
        failpoint!("file_group.join.before_commit")?;
        commit(transaction, OPERATION)?;
        failpoint!("file_group.join.after_commit")
    }

    fn leave(&mut self, id: MemberId) -> Result<()> {
        const OPERATION: &str = "leave group";
        let failed = |error| from_sqlite(OPERATION, error).with("file", self.file.display());
        let sql = "delete from member where id = ?1";
        failpoint!("file_group.leave.before_commit")?;
        self.connection.execute(sql, [id.0.as_bytes().as_slice()]).map_err(failed)?;
        failpoint!("file_group.leave.after_commit")?;
        if let Some(life) = self.lives.remove(&id.0) {
            life.remove();
        }
        Ok(())
    }

    /// The living, in the order in which they joined.
    fn members(&mut self) -> Result<Vec<Member>> {
        const OPERATION: &str = "look at group";
        self.check(OPERATION)?;
        let mut living = Vec::new();
        for member in self.all(OPERATION)? {
            if self.liveness.is_live(member.id.0)? {
                living.push(member);
            }
        }
        Ok(living)
    }

    fn all(&self, operation: &'static str) -> Result<Vec<Member>> {
        let failed = |error| from_sqlite(operation, error).with("file", self.file.display());
        let sql = "select id, name, data from member where band = ?1 order by position";
        let mut statement = self.connection.prepare_cached(sql).map_err(failed)?;
        let member = |row: &rusqlite::Row<'_>| {
            let id = MemberId(Uuid::from_bytes(row.get(0)?));
            Ok(Member { id, name: row.get(1)?, data: row.get(2)? })
        };
        statement.query_map([&self.band], member).and_then(Iterator::collect).map_err(failed)
    }

    /// The row goes first, so that nobody who looks takes its remover for the member.
    fn forget_the_dead(&mut self, operation: &'static str) -> Result<()> {
        for member in self.all(operation)? {
            if self.liveness.is_live(member.id.0)? {
                continue;
            }
            self.leave(member.id)?;
            if let Some(life) = self.liveness.claim(member.id.0)? {
                life.remove();
            }
        }
        Ok(())
    }
}
