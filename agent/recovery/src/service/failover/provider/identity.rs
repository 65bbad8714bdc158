//! By what a machine is known that is made for a failover: its firmware's identity and its network cards' addresses, both of the
//! failover's id. By them its agent is told from the one that it was copied from.
//!
//! Deliberately not here: making it.

use super::{Card, Spec};

/// A firmware identity of 16 bytes, of which the failover's id is a part.
pub(super) fn uuid(failover: &str) -> String {
    let digits: String = digits(failover).chain("f0".chars().cycle()).take(32).collect();
    let parts = [&digits[..8], &digits[8..12], &digits[12..16], &digits[16..20], &digits[20..]];
    parts.join("-")
}

fn digits(failover: &str) -> impl Iterator<Item = char> {
    failover.chars().filter(char::is_ascii_hexdigit).map(|digit| digit.to_ascii_lowercase())
}

/// The address of a network card by its number, of those that everybody may use for virtual machines.
fn mac(failover: &str, number: u32) -> String {
    let first = digits(failover).chain("0".chars().cycle()).take(6);
    let first = first.filter_map(|digit| digit.to_digit(16)).fold(0, |sum, digit| sum << 4 | digit);
    let [_, high, middle, low] = first.wrapping_add(number).to_be_bytes();
    format!("52:54:00:{high:02x}:{middle:02x}:{low:02x}")
}

/// The addresses of a machine's network cards, in the order of its [`Spec::cards`]. It has one at least.
pub(super) fn addresses(spec: &Spec) -> Vec<String> {
    (0..).take(spec.cards.len().max(1)).map(|number| mac(&spec.failover, number)).collect()
}

/// The cards with their addresses, in the order in which a kernel is to find them: a card that keeps the name `eth1` must not be found as
/// `eth0`, which is another one's name.
pub(super) fn cards(spec: &Spec) -> Vec<(Card, String)> {
    let known = spec.cards.iter().cloned().chain([Card::default()]);
    let mut cards: Vec<(Card, String)> = known.zip(addresses(spec)).collect();
    cards.sort_by(|(one, _), (other, _)| (one.name.len(), &one.name).cmp(&(other.name.len(), &other.name)));
    cards
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(names: &[&str]) -> Spec {
        let card = |name: &&str| Card { name: (*name).to_owned(), network: None };
        Spec { cards: names.iter().map(card).collect(), ..super::super::tests::spec("0123456789abcdef") }
    }

    #[test]
    fn a_machine_is_known_by_its_failover() {
        assert_eq!(uuid("0123456789abcdef"), "01234567-89ab-cdef-f0f0-f0f0f0f0f0f0");
        assert_ne!(uuid("0123456789abcdef"), uuid("0123456789abcdee"));
        assert_eq!(addresses(&spec(&[])), ["52:54:00:01:23:45"]);
        let cards = spec(&["eth0", "eth1", "eth2"]);
        assert_eq!(addresses(&cards), ["52:54:00:01:23:45", "52:54:00:01:23:46", "52:54:00:01:23:47"]);
        assert_eq!([mac("ffffffff", 0), mac("ffffffff", 1)], ["52:54:00:ff:ff:ff", "52:54:00:00:00:00"]);
        assert_eq!(mac("a", 15), "52:54:00:a0:00:0f");
    }

    #[test]
    fn cards_are_found_in_the_order_of_their_names() {
        let cards = cards(&spec(&["eth10", "eth0", "eth2"]));
        let shown: Vec<(&str, &str)> =
            cards.iter().map(|(card, mac)| (card.name.as_str(), mac.as_str())).collect();
        let expected =
            [("eth0", "52:54:00:01:23:46"), ("eth2", "52:54:00:01:23:47"), ("eth10", "52:54:00:01:23:45")];
        assert_eq!(shown, expected);
        assert_eq!(super::cards(&spec(&[])), [(Card::default(), "52:54:00:01:23:45".to_owned())]);
    }
}
