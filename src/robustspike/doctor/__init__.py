"""What makes a robustness figure wrong before there is one: in what is installed, in the frameworks, in a network."""

from robustspike.doctor.diagnosing import doctor
from robustspike.doctor.diagnosis import Diagnosis
from robustspike.doctor.environment import INSTALLATION
from robustspike.doctor.known import KNOWN
from robustspike.doctor.network import NETWORK

__all__ = ["INSTALLATION", "KNOWN", "NETWORK", "Diagnosis", "doctor"]
