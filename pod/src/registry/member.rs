//! One pod's place in the registry, as its own process uses it.
//!
//! Every call that looks into the file runs on a thread for such calls. Claims that nobody keeps are given back.
//!
//! Part of what a pod's parts share; made by `start`, used by `handle`.

use std::sync::{Arc, Mutex, PoisonError};

use super::{Claim, ClaimError, Origin, Place, Registry, RegistryError};
use crate::admission::Process;
use crate::id::PodId;
use crate::protocol::TurnCap;
use crate::runtime_dir::{PodPaths, Roots};
use crate::scope::{Rules, Scope, ScopeRule};
use crate::store::Clock;

/// A pod among all pods of its user. Clones are the same.
#[derive(Clone, Debug)]
pub(crate) struct Member {
    registry: Registry,
    own: PodId,
    /// As it was at the last look. Others move it: an adopter, or a next life of the root with other bounds.
    place: Arc<Mutex<Arc<Place>>>,
    scope: Scope,
    /// Held from a look at what is lent until it is shown: of two looks the later one is shown last.
    looking: Arc<Mutex<()>>,
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
        // Nothing is claimed, and nobody is believed, by a file that is not as it was written.
        registry.check()?;
        let place = match &claim.origin {
            Origin::Root { .. } => registry.claim(claim, Clock::System.now())?,
            Origin::Child { parent, .. } => {
                let unknown = || ClaimError::ParentUnknown { parent: parent.clone() };
                registry.place(&claim.pod)?.ok_or_else(unknown)?
            }
        };
        let said = crate::admission::own().map_err(|error| error.to_string());
        let said = said.and_then(|own| registry.is_process(&place.pod, own).map_err(|error| error.to_string()));
        if let Err(error) = said {
            // Its life lock says so, too; that is dearer to look at.
            tracing::warn!(pod = %place.pod, error, "which process this pod is could not be registered");
        }
        // What its earlier process had lent is still lent.
        let lent = registry.lent(&place.pod)?;
        let scope = Scope::new(place.scope.clone(), lent);
        let own = place.pod.clone();
        Ok(Self { registry, own, place: Arc::new(Mutex::new(Arc::new(place))), scope, looking: Arc::default() })
    }

    /// Its place as it was at the last look: who it is, its scope and its confinement stay what they are; its tree, and the bounds
    /// of that, may be others by now.
    pub(crate) fn place(&self) -> Arc<Place> {
        Arc::clone(&self.shown())
    }

    fn shown(&self) -> std::sync::MutexGuard<'_, Arc<Place>> {
        self.place.lock().unwrap_or_else(PoisonError::into_inner)
    }

    #[cfg(test)]
    pub(crate) fn registry(&self) -> &Registry {
        &self.registry
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
            origin: Origin::Child { parent: self.own.clone(), asked: Rules::new(asked)? },
        };
        let place = self.blocking(move |registry| registry.claim(&claim, Clock::System.now())).await?;
        // What was claimed is of our own tree, as it is now.
        let (root, limits, ends_at) = (place.root, place.limits, place.ends_at);
        let shown = self.place();
        *self.shown() = Arc::new(Place { root, limits, ends_at, ..Place::clone(&shown) });
        let rules = place.scope.as_ref().map(Rules::to_wire).unwrap_or_default();
        if let Some(scope) = place.scope
            && let Err(error) = self.look_at_lent().await
        {
            tracing::warn!(pod = %self.own, %error, "what is lent cannot be looked at");
            self.scope.lend(pod.clone(), scope);
        }
        Ok(Claimed { member: self.clone(), pod: pod.clone(), rules, kept: false })
    }

    /// Takes back what a child had that was never reserved. Doing it twice does nothing more.
    ///
    /// # Errors
    /// [`RegistryError`]; whoever it is in the way of takes it back.
    async fn give_back(&self, pod: &PodId) -> Result<(), RegistryError> {
        let pod = pod.clone();
        self.blocking(move |registry| registry.give_back(&pod)).await?;
        self.look_at_lent().await
    }

    /// Ends what is left of children that were buried, and takes back what they had. Returns those of which nothing is there any
    /// more; the others are not proven dead yet. Doing it twice does nothing more.
    ///
    /// # Errors
    /// [`RegistryError`]; to be tried again.
    pub(crate) async fn take_back(&self, pods: Vec<PodId>, roots: &Roots) -> Result<Vec<PodId>, RegistryError> {
        let roots = roots.clone();
        let back = self.blocking(move |registry| registry.take_back(&pods, &roots)).await?;
        if !back.is_empty() {
            self.look_at_lent().await?;
        }
        Ok(back)
    }

    /// Looks at its place again, and at whether its tree may start one more turn. Waits for nobody who writes.
    ///
    /// # Errors
    /// [`RegistryError`]; what is shown is then what it was.
    pub(crate) async fn look_again(&self) -> Result<(Arc<Place>, Result<(), TurnCap>), RegistryError> {
        let own = self.own.clone();
        let (place, verdict) =
            self.blocking(move |registry| registry.may_start_turn(&own, Clock::System.now())).await?;
        let place = Arc::new(place);
        *self.shown() = Arc::clone(&place);
        Ok((place, verdict))
    }

    /// Counts a turn that this pod is about to start or to be given. Waits, for as long as another process is in the middle
    /// of a transaction.
    ///
    /// # Errors
    /// [`RegistryError`]; whether it is counted is then not known. `Ok(Err(_))` if the tree may start none.
    pub(crate) async fn take_turn(&self) -> Result<Result<Place, TurnCap>, RegistryError> {
        let own = self.own.clone();
        self.blocking(move |registry| registry.take_turn(&own, Clock::System.now())).await
    }

    /// So many turns that were counted when this pod was at `place` do not begin.
    ///
    /// # Errors
    /// [`RegistryError`]: they stay counted.
    pub(crate) async fn give_turns_back(&self, place: Arc<Place>, turns: u32) -> Result<(), RegistryError> {
        self.blocking(move |registry| registry.give_turns_back(&place, turns)).await
    }

    /// Shows what is lent now. What a dead child's own children hold is taken from us, too.
    ///
    /// # Errors
    /// [`RegistryError`]; what is shown is then what it was.
    pub(crate) async fn look_at_lent(&self) -> Result<(), RegistryError> {
        let (own, scope, looking) = (self.own.clone(), self.scope.clone(), Arc::clone(&self.looking));
        self.blocking(move |registry| {
            let _looking = looking.lock().unwrap_or_else(PoisonError::into_inner);
            scope.lent(registry.lent(&own)?);
            Ok(())
        })
        .await
    }

    /// Which process the life `pod` has said that it is.
    ///
    /// # Errors
    /// [`RegistryError`].
    pub(crate) async fn process_of(&self, pod: &PodId) -> Result<Option<Process>, RegistryError> {
        let pod = pod.clone();
        self.blocking(move |registry| registry.process_of(&pod)).await
    }

    /// Makes the living `child`, with all below it, a child of this pod, if this pod could have started it.
    ///
    /// # Errors
    /// [`ClaimError`]; nothing has then changed.
    pub(crate) async fn adopt(&self, child: &PodId) -> Result<(), ClaimError> {
        let (place, moved) = (self.place(), child.clone());
        let holds = self.blocking(move |registry| registry.adopt(&place, &moved)).await?;
        if let Err(error) = self.look_at_lent().await {
            // It has moved, and nothing is undone for a look that failed: what it holds is known.
            tracing::warn!(pod = %self.own, %error, "what is lent cannot be looked at");
            if let Some(holds) = holds {
                self.scope.lend(child.clone(), holds);
            }
        }
        Ok(())
    }

    /// Children of an earlier life go on as children of this one.
    pub(crate) async fn adopted(&self, children: Vec<PodId>) -> Result<(), RegistryError> {
        let place = self.place();
        self.blocking(move |registry| children.iter().try_for_each(|child| registry.adopted(&place, child))).await?;
        self.look_at_lent().await
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
