//! How many addresses a pool has, and how many of them are in use: arithmetic on ranges, never a
//! walk through them.

use std::collections::BTreeSet;
use std::net::IpAddr;

use serde_json::{Value, json};

use super::Plan;
use crate::observed::{AddressRange, IpFamily, Pool};

/// Addresses of a pool, by family: IPv4, IPv6.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count {
    total: [u128; 2],
    used: [u128; 2],
}

impl Count {
    /// Counts.
    pub fn of(pool: &Pool, plan: &Plan) -> Self {
        let mut count = Self::default();
        for range in &pool.ranges {
            let index = index(range.family());
            count.total[index] = count.total[index].saturating_add(size(*range, pool));
        }
        let addresses = plan.assignments.values().flat_map(|it| &it.addresses).copied();
        // An address that several Services share is one address.
        let used: BTreeSet<IpAddr> = addresses.filter(|address| pool.contains(*address)).collect();
        for address in used {
            count.used[index(IpFamily::of(address))] += 1;
        }
        count
    }

    /// As IPAddressPool's status has it.
    pub fn metallb(&self) -> Value {
        let number = |number: u128| i64::try_from(number).unwrap_or(i64::MAX);
        let free = |index: usize| number(self.total[index].saturating_sub(self.used[index]));
        json!({
            "assignedIPv4": number(self.used[0]),
            "assignedIPv6": number(self.used[1]),
            "availableIPv4": free(0),
            "availableIPv6": free(1),
        })
    }

    /// All addresses of a family, and those in use.
    pub const fn of_family(&self, family: IpFamily) -> (u128, u128) {
        (self.total[index(family)], self.used[index(family)])
    }

    /// All addresses, and those in use.
    pub fn sums(&self) -> (u128, u128) {
        (self.total[0].saturating_add(self.total[1]), self.used[0] + self.used[1])
    }
}

const fn index(family: IpFamily) -> usize {
    match family {
        IpFamily::V4 => 0,
        IpFamily::V6 => 1,
    }
}

fn size(range: AddressRange, pool: &Pool) -> u128 {
    let left_out = pool.left_out.iter().filter(|address| range.contains(**address)).count();
    let all = match (range.first(), range.last()) {
        (IpAddr::V4(first), IpAddr::V4(last)) => {
            let (first, last) = (u128::from(first.to_bits()), u128::from(last.to_bits()));
            let buggy = if pool.avoid_buggy { buggy(last + 1) - buggy(first) } else { 0 };
            last - first + 1 - buggy
        }
        (IpAddr::V6(first), IpAddr::V6(last)) => {
            (last.to_bits() - first.to_bits()).saturating_add(1)
        }
        _ => 0,
    };
    all.saturating_sub(left_out as u128)
}

/// How many of the addresses below this one end in .0 or .255.
const fn buggy(end: u128) -> u128 {
    end.div_ceil(256) + end / 256
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::allocator::Assignment;
    use crate::observed::ServiceName;

    fn pool(first: &str, last: &str) -> Pool {
        let range = AddressRange::new(first.parse().unwrap(), last.parse().unwrap());
        Pool { ranges: range.into_iter().collect(), ..Pool::default() }
    }

    fn total(pool: &Pool) -> u128 {
        Count::of(pool, &Plan::default()).sums().0
    }

    #[test]
    fn counts_without_walking() {
        assert_eq!(total(&pool("192.0.2.0", "192.0.2.9")), 10);
        assert_eq!(total(&pool("2001:db8::", "2001:db8::ffff:ffff:ffff:ffff")), 1 << 64);
        assert_eq!(total(&pool("::", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff")), u128::MAX);
    }

    #[test]
    fn leaves_out_what_is_not_given_away() {
        let avoiding = |first, last| Pool { avoid_buggy: true, ..pool(first, last) };
        assert_eq!(total(&avoiding("192.0.2.0", "192.0.2.255")), 254);
        assert_eq!(total(&avoiding("192.0.2.255", "192.0.3.0")), 0);
        assert_eq!(total(&avoiding("192.0.2.1", "192.0.3.1")), 255);
        let mut ends = pool("192.0.2.0", "192.0.2.3");
        ends.left_out = ["192.0.2.0".parse().unwrap(), "192.0.2.3".parse().unwrap()].into();
        assert_eq!(total(&ends), 2);
    }

    #[test]
    fn counts_a_shared_address_once() {
        let assignment =
            Assignment { pool: "p".into(), addresses: vec!["192.0.2.1".parse().unwrap()] };
        let names = ["a", "b"].map(|name| ServiceName::new("default", name));
        let assignments = names.into_iter().map(|name| (name, assignment.clone())).collect();
        let plan = Plan { assignments, ..Plan::default() };
        assert_eq!(
            Count::of(&pool("192.0.2.0", "192.0.2.9"), &plan).metallb(),
            json!({"assignedIPv4": 1, "assignedIPv6": 0, "availableIPv4": 9, "availableIPv6": 0})
        );
    }
}
