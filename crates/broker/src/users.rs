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
    /// Whether this is the user, with this password, from an allowed place. Takes as long for a
    /// wrong password as for the right one.
    pub(crate) fn admits(&self, name: &[u8], password: &[u8], loopback: bool) -> bool {
        same(self.name.as_bytes(), name)
            & same(self.password.as_bytes(), password)
            & (loopback | !self.loopback_only)
    }
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
    fn admits_only_the_right_password_from_the_right_place() {
        let guest = User { name: "guest".into(), password: "secret".into(), loopback_only: true };
        assert!(guest.admits(b"guest", b"secret", true));
        assert!(!guest.admits(b"guest", b"secret", false));
        for wrong in [&b""[..], b"secre", b"secret\0", b"Secret"] {
            assert!(!guest.admits(b"guest", wrong, true));
            assert!(!guest.admits(wrong, b"secret", true));
        }
        assert!(!format!("{guest:?}").contains("secret"));
    }
}
