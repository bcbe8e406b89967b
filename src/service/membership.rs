//! To be a member of a group, for as long as one likes: joins again by itself, under another id, where the session
//! with the store was lost, and tells meanwhile that it is no member.

use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::build;
use crate::config::Config;
use crate::error::{Error, ErrorKind, Result};
use crate::group::{Group, GroupOf, GroupSeen, GroupSession, MEMBER_DATA_BYTES, Member};
use crate::id::{GroupName, MemberId};
use crate::protocol::retry::Backoff;
use crate::relay::Told;

const OPERATION: &str = "join group";
const RETRY: Backoff = Backoff { first: Duration::from_millis(50), limit: Duration::from_secs(5) };
/// Between two looks at the session of one who does not watch.
const LOOK_PAUSE: Duration = Duration::from_millis(500);

/// What a member knows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GroupView {
    /// This one; None while it is no member, or may be none, as the store does not answer.
    pub me: Option<MemberId>,
    /// All of them, this one too, in the order in which they joined; as they were seen last.
    pub members: Vec<Member>,
}

/// One member of a group. Dropped, it leaves, as soon as the store notices.
///
/// ```no_run
/// # async fn work(config: &onecommit::config::Config) -> onecommit::Result<()> {
/// use onecommit::service::Membership;
///
/// let mut membership = Membership::join(config, &"workers".parse()?, "worker 1", b"eu").await?;
/// loop {
///     let view = membership.changed().await;
///     let Some(me) = view.me else { continue };
///     let place = view.members.iter().position(|member| member.id == me);
///     println!("{place:?} of {}", view.members.len());
/// #   return membership.leave().await;
/// }
/// # }
/// ```
pub struct Membership {
    view: watch::Receiver<GroupView>,
    /// What this member says of itself; without it there is none.
    data: Option<watch::Sender<Vec<u8>>>,
    keeping: JoinHandle<()>,
    leave_limit: Duration,
}

impl Membership {
    /// Joins a group of the application's own. The store has to answer.
    pub async fn join(config: &Config, group: &GroupName, name: &str, data: &[u8]) -> Result<Self> {
        check(name, data)?;
        let group = build::group(config, &GroupOf::Named(group.clone()))?;
        let member = Member { id: MemberId::random(), name: name.to_string(), data: data.to_vec() };
        let mut session = group.open().await?;
        joined(&mut *session, &member).await?;
        let members = session.members().await?;
        let first = GroupView { me: Some(member.id), members };
        let (view, views) = watch::channel(first);
        let (says, data) = watch::channel(member.data.clone());
        let leave_limit = Duration::from_millis(config.coordinator.request_timeout_ms);
        let keeper = Keeper { group, member, data, view, watches: true };
        let keeping = tokio::spawn(keeper.keep(Some(session)));
        Ok(Membership { view: views, data: Some(says), keeping, leave_limit })
    }

    /// What is known now.
    pub fn view(&mut self) -> GroupView {
        self.view.borrow_and_update().clone()
    }

    /// Waits, for as long as it takes, for something else than was seen last, here or by [`Membership::view`].
    pub async fn changed(&mut self) -> GroupView {
        if self.view.changed().await.is_err() {
            // It panicked: nothing is ever known again.
            std::future::pending::<()>().await;
        }
        self.view()
    }

    /// For who waits elsewhere: each view, until this member leaves.
    pub fn watch(&self) -> watch::Receiver<GroupView> {
        self.view.clone()
    }

    /// Says something else of itself, to all.
    pub fn say(&self, data: &[u8]) -> Result<()> {
        check("", data)?;
        if let Some(says) = &self.data {
            says.send_replace(data.to_vec());
        }
        Ok(())
    }

    /// Leaves, and waits until the store knows, for `[coordinator] request_timeout_ms` at most; others are told at once.
    pub async fn leave(mut self) -> Result<()> {
        self.data = None;
        let left = timeout(self.leave_limit, &mut self.keeping).await;
        left.map(drop).map_err(|elapsed| {
            let why = "the store did not answer: this member goes with its session";
            Error::new(ErrorKind::Unreachable, "leave group", why).caused_by(elapsed)
        })
    }
}

impl Drop for Membership {
    fn drop(&mut self) {
        self.keeping.abort();
    }
}

fn check(name: &str, data: &[u8]) -> Result<()> {
    if name.len() > GroupName::MAX_BYTES {
        let why = format!("a member's name has {} bytes at most", GroupName::MAX_BYTES);
        return Err(Error::invalid(OPERATION, why).with("bytes", name.len()));
    }
    if data.len() > MEMBER_DATA_BYTES {
        let why = format!("a member can say {MEMBER_DATA_BYTES} bytes of itself at most");
        return Err(Error::invalid(OPERATION, why).with("bytes", data.len()));
    }
    Ok(())
}

async fn joined(session: &mut dyn GroupSession, member: &Member) -> Result<()> {
    let mut failures = 0;
    loop {
        match session.join(member).await {
            Err(error) if error.kind() == ErrorKind::Unclear && failures < 3 => failures += 1,
            joined => return joined,
        }
        tokio::time::sleep(RETRY.wait(failures, 0.5)).await;
    }
}

/// Keeps a member one. Ends when nobody says anything of it any more: then it leaves.
pub(super) struct Keeper {
    pub(super) group: Box<dyn Group>,
    pub(super) member: Member,
    pub(super) data: watch::Receiver<Vec<u8>>,
    pub(super) view: watch::Sender<GroupView>,
    /// Whether it tells who else is there, and, in the log, that the store is away. Of hundreds who all watched, each
    /// would list hundreds whenever one comes.
    pub(super) watches: bool,
}

impl Keeper {
    pub(super) async fn keep(mut self, first: Option<Box<dyn GroupSession>>) {
        let mut session = first;
        let mut failures = 0;
        let mut told = Told::default();
        loop {
            let mut current = match session.take() {
                Some(session) => session,
                None => match self.join_anew().await {
                    Ok(session) => {
                        failures = 0;
                        told.clear();
                        session
                    }
                    Err(error) => {
                        if self.watches && told.is_news(&error) {
                            tracing::warn!(%error, "a group can't be joined now");
                        }
                        failures += 1;
                        tokio::select! {
                            () = tokio::time::sleep(RETRY.wait(failures, 0.5)) => continue,
                            () = ended(&mut self.data) => return,
                        }
                    }
                },
            };
            if self.is_over(&mut *current).await {
                return;
            }
            // Known only when it is a member again.
            self.view.send_modify(|view| view.me = None);
        }
    }

    /// Under another id: under the one before somebody may have been taken for gone.
    async fn join_anew(&mut self) -> Result<Box<dyn GroupSession>> {
        self.member.id = MemberId::random();
        self.member.data.clone_from(&self.data.borrow_and_update());
        let mut session = self.group.open().await?;
        joined(&mut *session, &self.member).await?;
        Ok(session)
    }

    /// Until it has left (true), or the session is over.
    async fn is_over(&mut self, session: &mut dyn GroupSession) -> bool {
        let mut seen = GroupSeen { members: self.view.borrow().members.clone(), is_current: true };
        loop {
            tokio::select! {
                changed = next(session, &seen, self.watches) => match changed {
                    Ok(now) => {
                        let is_there = now.members.iter().any(|member| member.id == self.member.id);
                        // Somebody has removed it.
                        if now.is_current && !is_there {
                            return false;
                        }
                        let me = now.is_current.then_some(self.member.id);
                        self.view.send_replace(GroupView { me, members: now.members.clone() });
                        seen = now;
                    }
                    Err(error) if error.is_retriable() && error.kind() != ErrorKind::Fenced => {
                        tokio::time::sleep(RETRY.wait(1, 0.5)).await;
                    }
                    Err(_) => return false,
                },
                said = self.data.changed() => {
                    if said.is_err() {
                        // The store's own limit holds, and that of whoever waits for it.
                        let _ = session.leave(self.member.id).await;
                        return true;
                    }
                    self.member.data.clone_from(&self.data.borrow_and_update());
                    if joined(session, &self.member).await.is_err() {
                        return false;
                    }
                }
            }
        }
    }
}

/// What is to be seen next; where nobody watches, only that the session is over.
async fn next(session: &mut dyn GroupSession, seen: &GroupSeen, watches: bool) -> Result<GroupSeen> {
    if watches {
        return session.changed(seen).await;
    }
    while !session.is_over() {
        tokio::time::sleep(LOOK_PAUSE).await;
    }
    Err(Error::new(ErrorKind::Fenced, "keep member", "the session with the store is over"))
}

async fn ended(data: &mut watch::Receiver<Vec<u8>>) {
    while data.changed().await.is_ok() {}
}
