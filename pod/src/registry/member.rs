//! One pod's place in the registry, as its own process uses it.
//!
//! Every call that looks into the file runs on a thread for such calls. Claims that nobody keeps are given back.
//!
//! Part of what a pod's parts share; made by `start`, used by `handle` and `controller`.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::{Cap, Claim, ClaimError, Origin, Place, Registry, RegistryError};
use crate::id::PodId;
use crate::runtime_dir::PodPaths;
use crate::scope::{Rules, Scope, ScopeRule};
use crate::store::Clock;

/// A pod among all pods of its user. Clones are the same.
#[derive(Clone, Debug)]
pub(crate) struct Member {
    registry: Registry,
    place: Arc<Place>,
    scope: Scope,
    /// Turns that were counted and did not become automatic ones.
    turns_in_hand: Arc<AtomicU64>,
}

/// A claim for a child. Given back when it is dropped, unless it is kept.
#[derive(Debug)]
pub(crate) struct Claimed {
    member: Member,
    pod: PodId,
    rules: Vec<ScopeRule>,
    kept: bool,
}

impl Member {
    /// Takes up the place that `claim` says, or finds the one that a parent has claimed.
    ///
    /// # Errors
    /// [`ClaimError`].
    pub(crate) fn join(registry: Registry, claim: &Claim) -> Result<Self, ClaimError> {
        let place = match &claim.origin {
            Origin::Root { .. } => registry.claim(claim, Clock::System.now())?,
            Origin::Child { parent, .. } => {
                let unknown = || ClaimError::ParentUnknown { parent: parent.clone() };
                registry.place(&claim.pod)?.ok_or_else(unknown)?
            }
        };
        // What its earlier process had lent is still lent.
        let lent = registry.lent(&place.pod)?;
        let scope = Scope::new(place.scope.clone(), lent);
        Ok(Self { registry, place: Arc::new(place), scope, turns_in_hand: Arc::default() })
    }

    pub(crate) fn place(&self) -> &Place {
        &self.place
    }

    /// What this pod may use, less what its children hold.
    pub(crate) fn scope(&self) -> &Scope {
        &self.scope
    }

    /// Claims everything for a child that is about to be reserved.
    ///
    /// # Errors
    /// [`ClaimError`]; nothing has then changed.
    pub(crate) async fn claim(
        &self,
        pod: &PodId,
        paths: &PodPaths,
        worker: &str,
        asked: &[ScopeRule],
    ) -> Result<Claimed, ClaimError> {
        let claim = Claim {
            pod: pod.clone(),
            worker: worker.to_owned(),
            state_dir: paths.state_dir().to_owned(),
            origin: Origin::Child { parent: self.place.pod.clone(), asked: Rules::new(asked)? },
        };
        let place = self.blocking(move |registry| registry.claim(&claim, Clock::System.now())).await?;
        let rules = place.scope.as_ref().map(Rules::to_wire).unwrap_or_default();
        if let Some(scope) = place.scope {
            self.scope.lend(pod.clone(), scope);
        }
        Ok(Claimed { member: self.clone(), pod: pod.clone(), rules, kept: false })
    }

    /// Takes back what a child had, which is proven dead or was never reserved. Doing it twice does nothing more.
    ///
    /// # Errors
    /// [`RegistryError`]; to be tried again.
    pub(crate) async fn give_back(&self, pod: &PodId) -> Result<(), RegistryError> {
        let dead = pod.clone();
        self.blocking(move |registry| registry.give_back(&dead)).await?;
        // What the dead child's own children hold is taken from us now.
        let own = self.place.pod.clone();
        let lent = self.blocking(move |registry| registry.lent(&own)).await?;
        self.scope.lent(lent);
        Ok(())
    }

    /// Children of an earlier life go on as children of this one.
    pub(crate) async fn adopted(&self, children: Vec<PodId>) -> Result<(), RegistryError> {
        let place = self.place.clone();
        self.blocking(move |registry| children.iter().try_for_each(|child| registry.adopted(&place, child))).await?;
        let own = self.place.pod.clone();
        self.scope.lent(self.blocking(move |registry| registry.lent(&own)).await?);
        Ok(())
    }

    /// Whether turns that a pod starts by itself have to be counted, or the tree's time ends.
    pub(crate) fn bounds_turns(&self) -> bool {
        self.place.limits.turns > 0 || self.place.ends_at.is_some()
    }

    /// The bound that is reached, if the tree's time is over.
    pub(crate) fn time_is_over(&self) -> Option<Cap> {
        let over = self.place.ends_at.is_some_and(|end| end <= Clock::System.now());
        over.then_some(Cap::WallTime { max: self.place.limits.seconds })
    }

    /// Counts a turn that this pod wants to start by itself.
    ///
    /// # Errors
    /// `Ok(Some(_))` is the bound that is reached.
    pub(crate) async fn take_turn(&self) -> Result<Option<Cap>, RegistryError> {
        if let Some(cap) = self.time_is_over() {
            return Ok(Some(cap));
        }
        let in_hand = self.turns_in_hand.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |turns| turns.checked_sub(1));
        if self.place.limits.turns == 0 || in_hand.is_ok() {
            return Ok(None);
        }
        let root = self.place.root;
        Ok(self.blocking(move |registry| registry.take_turn(root)).await?.err())
    }

    /// The turn that was counted last was none that the pod started by itself: the next one is counted already.
    pub(crate) fn keep_turn(&self) {
        if self.place.limits.turns > 0 {
            self.turns_in_hand.fetch_add(1, Ordering::SeqCst);
        }
    }

    async fn blocking<T: Send + 'static, E: From<RegistryError> + Send + 'static>(
        &self,
        work: impl FnOnce(&Registry) -> Result<T, E> + Send + 'static,
    ) -> Result<T, E> {
        let registry = self.registry.clone();
        let path = registry.path().to_owned();
        let done = tokio::task::spawn_blocking(move || work(&registry)).await;
        done.unwrap_or_else(|error| {
            let source = std::io::Error::other(error.to_string());
            Err(RegistryError::Io { doing: "use", path, source }.into())
        })
    }
}

impl Claimed {
    /// What the child is given, the denies included that it did not ask for.
    pub(crate) fn rules(&self) -> &[ScopeRule] {
        &self.rules
    }

    /// The life is reserved: from here on its end gives back.
    pub(crate) fn keep(mut self) {
        self.kept = true;
    }
}

impl Drop for Claimed {
    fn drop(&mut self) {
        if self.kept {
            return;
        }
        let (member, pod) = (self.member.clone(), self.pod.clone());
        tokio::spawn(async move {
            if let Err(error) = member.give_back(&pod).await {
                tracing::warn!(%pod, %error, "a claim that nobody needs was not given back; the next one that it is in the way of does so");
            }
        });
    }
}
