// SPDX-License-Identifier: GPL-2.0 OR MIT

//! How many pages of copies each function, or each VM, may have.
//!
//! An [`Account`] has a *guarantee*, pages that it can have at any time, and a *quota*, which it never has more than. What is beyond the
//! guarantees is the [`Ledger`]'s to give, first come, first served. As nobody gets what is guaranteed to another, no account
//! ever has to take from another, and none can tell what another does with what is guaranteed to it.

/// What all accounts share.
///
/// Invariant: `used + reserved <= capacity`, with `used` the sum of the accounts' pages, and `reserved` that of what
/// is guaranteed to them and not used.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ledger {
    capacity: u32,
    used: u32,
    reserved: u32,
}

/// What one function or VM has, and may have.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Account {
    used: u32,
    guarantee: u32,
    quota: u32,
}

/// What an account is asked to be does not go.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refused {
    /// The quota is below the guarantee.
    Inverted,
    /// Others have, or are guaranteed, so much that there are only so many pages to guarantee.
    TooMuch(u32),
}

impl Account {
    /// Nothing is guaranteed, or allowed.
    pub const NOTHING: Self = Self {
        used: 0,
        guarantee: 0,
        quota: 0,
    };

    /// Pages that it has.
    #[must_use]
    pub const fn used(&self) -> u32 {
        self.used
    }

    /// Pages that it can have at any time.
    #[must_use]
    pub const fn guarantee(&self) -> u32 {
        self.guarantee
    }

    /// Pages that it never has more than, but for those that it had when that was changed.
    #[must_use]
    pub const fn quota(&self) -> u32 {
        self.quota
    }

    /// Pages that it has to give back, as its quota became smaller than what it has.
    #[must_use]
    pub const fn excess(&self) -> u32 {
        self.used.saturating_sub(self.quota)
    }

    const fn reserved(&self) -> u32 {
        self.guarantee.saturating_sub(self.used)
    }
}

impl Ledger {
    /// `capacity` pages, and no account.
    #[must_use]
    pub const fn new(capacity: u32) -> Self {
        Self {
            capacity,
            used: 0,
            reserved: 0,
        }
    }

    /// Pages that all accounts have.
    #[must_use]
    pub const fn used(&self) -> u32 {
        self.used
    }

    /// Pages that nobody has, and that nobody is guaranteed.
    #[must_use]
    pub const fn free(&self) -> u32 {
        self.capacity
            .saturating_sub(self.used.saturating_add(self.reserved))
    }

    /// Changes what `account` may have. What it has stays, even beyond its new quota ([`Account::excess`]).
    ///
    /// # Errors
    ///
    /// See [`Refused`]; nothing has changed then.
    pub fn set(
        &mut self,
        account: &mut Account,
        guarantee: u32,
        quota: u32,
    ) -> Result<(), Refused> {
        if guarantee > quota {
            return Err(Refused::Inverted);
        }
        let new = Account {
            used: account.used,
            guarantee,
            quota,
        };
        let room = self.free().saturating_add(account.reserved());
        if new.reserved() > room {
            return Err(Refused::TooMuch(account.used.saturating_add(room)));
        }
        self.reserved = self
            .reserved
            .saturating_sub(account.reserved())
            .saturating_add(new.reserved());
        *account = new;
        Ok(())
    }

    /// One page more for `account`; `false` if it may not have one.
    #[must_use]
    pub fn take(&mut self, account: &mut Account) -> bool {
        if account.used >= account.quota {
            return false;
        }
        if account.reserved() > 0 {
            self.reserved = self.reserved.saturating_sub(1);
        } else if self.free() == 0 {
            return false;
        }
        account.used = account.used.saturating_add(1);
        self.used = self.used.saturating_add(1);
        true
    }

    /// `account` has one page less.
    pub fn give(&mut self, account: &mut Account) {
        if account.used == 0 {
            return;
        }
        account.used = account.used.saturating_sub(1);
        self.used = self.used.saturating_sub(1);
        if account.used < account.guarantee {
            self.reserved = self.reserved.saturating_add(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::testing::cases;
    use super::*;
    use proptest::prelude::*;
    use std::vec::Vec;

    #[test]
    fn what_is_guaranteed_is_there_however_much_others_take() {
        let mut ledger = Ledger::new(100);
        let (mut victim, mut flood) = (Account::NOTHING, Account::NOTHING);
        ledger.set(&mut victim, 30, 40).expect("room");
        ledger.set(&mut flood, 0, 100).expect("room");
        while ledger.take(&mut flood) {}
        assert_eq!(flood.used(), 70);
        for _ in 0..30 {
            assert!(ledger.take(&mut victim));
        }
        assert!(!ledger.take(&mut victim));
        ledger.give(&mut flood);
        assert!(ledger.take(&mut victim));
    }

    #[test]
    fn what_others_have_is_guaranteed_to_nobody() {
        let mut ledger = Ledger::new(100);
        let (mut one, mut other) = (Account::NOTHING, Account::NOTHING);
        ledger.set(&mut one, 60, 60).expect("room");
        assert_eq!(ledger.set(&mut other, 41, 41), Err(Refused::TooMuch(40)));
        assert_eq!(ledger.set(&mut other, 41, 40), Err(Refused::Inverted));
        ledger.set(&mut other, 40, 90).expect("room");
        assert!(ledger.take(&mut one));
        ledger.set(&mut one, 0, 0).expect("room");
        assert_eq!(one.excess(), 1);
    }

    proptest! {
        #![proptest_config(cases(256))]

        #[test]
        fn the_sums_are_right(capacity in 0u32..64, steps in prop::collection::vec((0usize..4, 0u32..3, 0u32..40, 0u32..40), 0..200)) {
            let mut ledger = Ledger::new(capacity);
            let mut accounts = [Account::NOTHING; 4];
            for (which, what, guarantee, quota) in steps {
                let before = accounts;
                match what {
                    0 => {
                        let taken = ledger.take(&mut accounts[which]);
                        let account = before[which];
                        if account.used() < account.guarantee() {
                            prop_assert!(taken);
                        }
                        prop_assert_eq!(accounts[which].used(), account.used() + u32::from(taken));
                        prop_assert!(!taken || accounts[which].used() <= account.quota());
                    }
                    1 => ledger.give(&mut accounts[which]),
                    _ => {
                        let set = ledger.set(&mut accounts[which], guarantee, quota);
                        prop_assert_eq!(set.is_ok(), accounts != before || (guarantee, quota) == (before[which].guarantee(), before[which].quota()));
                    }
                }
                let used: u32 = accounts.iter().map(Account::used).sum();
                let reserved: u32 = accounts.iter().map(|account| account.guarantee().saturating_sub(account.used())).sum();
                prop_assert_eq!(ledger.used(), used);
                prop_assert!(used + reserved <= capacity);
                prop_assert_eq!(ledger.free(), capacity - used - reserved);
                let others: Vec<_> = (0..4).filter(|other| *other != which).collect();
                prop_assert!(others.iter().all(|other| accounts[*other] == before[*other]));
            }
        }
    }
}
