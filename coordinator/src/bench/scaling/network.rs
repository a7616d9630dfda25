//! The networks of the scaling benchmark, and how plans are to use them.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use asyncdiff_plan::{Cut, CutShape, Encoding, LinkCost, Links};
use asyncdiff_transport::quic::LinkLimit;
use serde::{Serialize, Serializer};

/// Slower links than this carry quantised differences, faster ones f16.
const SLOW_GBIT_PER_S: f64 = 5.0;

/// What plans take a link within a host for: a copy by a core of a server, on either side.
const HOST_LINK: LinkCost = LinkCost {
    latency_seconds: 0.000_1,
    bytes_per_second: 10.0e9,
    busy_seconds_per_byte: 0.1e-9,
    busy_seconds_per_tensor: 0.000_01,
};

/// What is between the devices.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Network {
    /// All are in one host and share memory.
    Inside,
    /// Each is a host of its own, and every link, in each direction, has this rate and delay; those with the coordinator too.
    Links {
        /// 1e9 bits per second.
        gbit_per_s: f64,
        /// Milliseconds.
        delay_ms: f64,
    },
}

impl Network {
    /// Those that are measured unless others are asked for.
    pub const ALL: [Self; 7] = [
        Self::Inside,
        Self::Links { gbit_per_s: 25.0, delay_ms: 0.2 },
        Self::Links { gbit_per_s: 25.0, delay_ms: 2.0 },
        Self::Links { gbit_per_s: 10.0, delay_ms: 0.2 },
        Self::Links { gbit_per_s: 10.0, delay_ms: 2.0 },
        Self::Links { gbit_per_s: 1.0, delay_ms: 0.2 },
        Self::Links { gbit_per_s: 1.0, delay_ms: 2.0 },
    ];

    /// The limit of each link where everything takes so many times as long.
    pub(super) fn limit(self, dilation: f64) -> Option<LinkLimit> {
        match self {
            Self::Inside => None,
            Self::Links { gbit_per_s, delay_ms } => Some(LinkLimit {
                bytes_per_second: gbit_per_s * 1e9 / 8.0 / dilation,
                delay: Duration::from_secs_f64(delay_ms / 1e3 * dilation),
            }),
        }
    }

    /// What plans are made for.
    pub(super) fn planned_links(self) -> Links {
        match self {
            Self::Inside => Links::uniform(HOST_LINK),
            Self::Links { .. } => self.ideal_links(1.0),
        }
    }

    /// What the links cost at least, where everything takes so many times as long: nothing but their limit.
    pub(super) fn ideal_links(self, dilation: f64) -> Links {
        Links::uniform(self.limit(dilation).map_or(LinkCost::FREE, |limit| LinkCost {
            latency_seconds: limit.delay.as_secs_f64(),
            bytes_per_second: limit.bytes_per_second,
            ..LinkCost::FREE
        }))
    }

    /// How the denoiser is split: by the planner where the network is fast enough for any split or so slow that it must weigh bytes.
    pub(super) fn cut(self) -> Option<Cut> {
        match self {
            Self::Links { gbit_per_s, .. } if gbit_per_s >= SLOW_GBIT_PER_S => Some(Cut::Shape(CutShape::Nested)),
            Self::Inside | Self::Links { .. } => None,
        }
    }

    /// How hidden states travel.
    pub(super) fn encoding(self) -> Encoding {
        match self {
            Self::Inside => Encoding::Full,
            Self::Links { gbit_per_s, .. } if gbit_per_s >= SLOW_GBIT_PER_S => Encoding::F16,
            Self::Links { .. } => Encoding::Delta8,
        }
    }

    /// The part of the ideal that is asked for.
    #[must_use]
    pub fn goal(self) -> f64 {
        match self.encoding() {
            Encoding::Full => 0.97,
            Encoding::F16 | Encoding::Bf16 => 0.95,
            Encoding::Delta8 | Encoding::Delta4 => 0.90,
        }
    }
}

impl fmt::Display for Network {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Inside => formatter.write_str("inside"),
            Self::Links { gbit_per_s, delay_ms } => write!(formatter, "{gbit_per_s}gbit-{delay_ms}ms"),
        }
    }
}

impl FromStr for Network {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "inside" {
            return Ok(Self::Inside);
        }
        let wrong = || "write it like inside, 10gbit-0.2ms or 1gbit-2ms".to_owned();
        let (rate, delay) = text.split_once("gbit-").ok_or_else(wrong)?;
        let number = |text: &str| text.parse::<f64>().ok().filter(|number| number.is_finite()).ok_or_else(wrong);
        let (gbit_per_s, delay_ms) = (number(rate)?, number(delay.strip_suffix("ms").ok_or_else(wrong)?)?);
        let is_sound = (0.001..=1e4).contains(&gbit_per_s) && (0.0..=100.0).contains(&delay_ms);
        is_sound.then_some(Self::Links { gbit_per_s, delay_ms }).ok_or_else(wrong)
    }
}

impl Serialize for Network {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_is_known_by_its_text() {
        for network in Network::ALL {
            assert_eq!(network.to_string().parse(), Ok(network));
        }
        for text in ["", "outside", "10gbit", "10gbit-2", "xgbit-2ms", "0gbit-1ms", "1gbit--1ms", "infgbit-1ms"] {
            assert!(text.parse::<Network>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn a_dilated_link_is_slower_by_the_factor_in_both() {
        let limit = Network::Links { gbit_per_s: 10.0, delay_ms: 0.2 }.limit(4.0).unwrap();
        assert_eq!((limit.bytes_per_second, limit.delay), (1.25e9 / 4.0, Duration::from_micros(800)));
    }
}
