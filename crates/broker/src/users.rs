//! Who may connect.

use std::fmt;

/// A user.
#[derive(Clone, PartialEq, Eq)]
pub struct User {
    /// The name.
    pub name: String,
    /// The password.
    pub password: String,
    /// Whether the user may only connect from this machine.
    pub loopback_only: bool,
}

impl User {
    /// Whether this is the user, with this password. Takes as long for a wrong password as for the
    /// right one.
    pub(crate) fn admits(&self, name: &[u8], password: &[u8]) -> bool {
        same(self.name.as_bytes(), name) & same(self.password.as_bytes(), password)
    }
}

/// Why a user may not connect.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum LoginError {
    /// No such user, or another password; which of the two is nobody's business.
    #[error("there is no user of that name with that password")]
    Credentials,
    /// The right password from the wrong place.
    #[error("this user may connect from this machine only; others need a user of your own naming")]
    NotLocal,
}

/// Compares without stopping at the first difference.
fn same(ours: &[u8], theirs: &[u8]) -> bool {
    let differences =
        theirs.iter().enumerate().fold(0, |d, (i, b)| d | (b ^ ours.get(i).unwrap_or(&!b)));
    ours.len() == theirs.len() && std::hint::black_box(differences) == 0
}

impl fmt::Debug for User {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("User")
            .field("name", &self.name)
            .field("loopback_only", &self.loopback_only)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn admits_only_the_right_password() {
        let guest = User { name: "guest".into(), password: "secret".into(), loopback_only: true };
        assert!(guest.admits(b"guest", b"secret"));
        for wrong in [&b""[..], b"secre", b"secret\0", b"Secret"] {
            assert!(!guest.admits(b"guest", wrong));
            assert!(!guest.admits(wrong, b"secret"));
        }
        assert!(!format!("{guest:?}").contains("secret"));
    }
}
