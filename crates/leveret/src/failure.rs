//! How a handler says that it failed, and what is to be done about it.

use std::any::type_name;
use std::error::Error;
use std::fmt;
use std::time::Duration;

/// Anything that can be shown as an error.
pub type BoxError = Box<dyn Error + Send + Sync>;

/// Why a message could not be handled. Every error becomes one by `?`: a transient one, which is
/// tried again.
pub struct Failure {
    pub(crate) remedy: Remedy,
    /// The error's type, by which dead letters can be told apart.
    pub(crate) kind: &'static str,
    error: BoxError,
}

/// What helps against a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Remedy {
    /// Another try.
    Retry,
    /// Another try, but not before this has passed.
    RetryAfter(Duration),
    /// Nothing: it is a dead letter at once.
    None,
}

impl Failure {
    /// It may go well another time: it is tried again as the consumer's policy says.
    pub fn transient<E: Into<BoxError>>(error: E) -> Self {
        Failure { remedy: Remedy::Retry, kind: type_name::<E>(), error: error.into() }
    }

    /// It may go well after this time: it is tried again then, if the policy has tries left.
    pub fn retry_after<E: Into<BoxError>>(after: Duration, error: E) -> Self {
        Failure { remedy: Remedy::RetryAfter(after), kind: type_name::<E>(), error: error.into() }
    }

    /// It will never go well: it is a dead letter at once.
    pub fn permanent<E: Into<BoxError>>(error: E) -> Self {
        Failure { remedy: Remedy::None, kind: type_name::<E>(), error: error.into() }
    }

    /// Whether it is a dead letter at once.
    #[must_use]
    pub fn is_permanent(&self) -> bool {
        self.remedy == Remedy::None
    }

    pub(crate) fn named(kind: &'static str, remedy: Remedy, text: String) -> Self {
        Failure { remedy, kind, error: text.into() }
    }
}

impl<E: Error + Send + Sync + 'static> From<E> for Failure {
    fn from(error: E) -> Self {
        Failure::transient(error)
    }
}

impl fmt::Display for Failure {
    /// The error and what caused it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.error)?;
        let mut source = self.error.source();
        while let Some(error) = source {
            write!(f, ": {error}")?;
            source = error.source();
        }
        Ok(())
    }
}

impl fmt::Debug for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} ({}): {self}", self.remedy, self.kind)
    }
}

/// Turns the error of a result into a permanent failure:
/// `let id: u64 = text.parse().permanent()?;`
pub trait Permanent<T> {
    /// With the error as a permanent failure.
    ///
    /// # Errors
    /// The same error.
    fn permanent(self) -> Result<T, Failure>;
}

impl<T, E: Into<BoxError>> Permanent<T> for Result<T, E> {
    fn permanent(self) -> Result<T, Failure> {
        self.map_err(Failure::permanent)
    }
}
