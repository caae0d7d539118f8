"""VehicleControlAPI: a car's engine, doors, climate, brakes, lights, cruise control and navigation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from qwq.envs.bfcl.base import CallRefused, Json, World

TANK_GALLONS = 50
MILES_PER_GALLON = 20.0
FULL_BRAKE_N = 1000.0
ZIP_CODES = {
    "Rivermist": "83214", "Stonebrook": "74532", "Maplecrest": "56108", "Silverpine": "62947", "Shadowridge": "71354",
    "Sunset Valley": "83462", "Oakendale": "47329", "Willowbend": "52013", "Crescent Hollow": "69238",
    "Autumnville": "51479", "San Francisco": "94016",
}  # fmt: skip
MILES = {
    ("83214", "74532"): 750.0, ("56108", "62947"): 320.0, ("71354", "83462"): 450.0, ("47329", "52013"): 290.0,
    ("69238", "51479"): 630.0, ("94016", "83214"): 980.0, ("94016", "94704"): 600.0, ("94704", "08540"): 2550.0,
    ("94016", "08540"): 1950.0, ("62947", "47329"): 1053.0, ("94016", "62947"): 780.0, ("74532", "94016"): 880.0,
}  # fmt: skip
DOORS = ("driver", "passenger", "rear_left", "rear_right")
TIRES = ("frontLeftTirePressure", "frontRightTirePressure", "rearLeftTirePressure", "rearRightTirePressure")


class VehicleControlAPI(World):
    seed = 141053
    defaults: ClassVar[Mapping[str, Any]] = {
        "fuelLevel": 0.0, "batteryVoltage": 12.6, "engineState": "stopped",
        "doorStatus": dict.fromkeys(DOORS, "unlocked"), "acTemperature": 25.0, "fanSpeed": 50, "acMode": "auto",
        "humidityLevel": 50.0, "headLightStatus": "off", "parkingBrakeStatus": "released",
        "brakePedalStatus": "released", "distanceToNextVehicle": 50.0, "cruiseStatus": "inactive",
        "destination": "None", "frontLeftTirePressure": 32.0, "frontRightTirePressure": 32.0,
        "rearLeftTirePressure": 30.0, "rearRightTirePressure": 30.0,
    }  # fmt: skip
    fuelLevel: float
    batteryVoltage: float
    engineState: str
    doorStatus: dict[str, str]
    acTemperature: float
    fanSpeed: int
    acMode: str
    humidityLevel: float
    headLightStatus: str
    parkingBrakeStatus: str
    brakePedalStatus: str
    distanceToNextVehicle: float
    cruiseStatus: str
    destination: str

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__(config)
        # Forces and the slope are shown but are no part of the compared state.
        self._parking_force = config.get("parkingBrakeForce", 0.0)
        self._slope = config.get("slopeAngle", 0.0)
        self._brake_force = config.get("brakePedalForce", 0.0)

    def _unlocked(self) -> list[str]:
        return [door for door, status in self.doorStatus.items() if status == "unlocked"]

    def _open_doors(self) -> int:
        return 4 - sum(status == "locked" for status in self.doorStatus.values())

    # -- driving -----------------------------------------------------------------------------------

    def startEngine(self, ignitionMode: str) -> Json:
        if ignitionMode == "STOP":
            self.engineState = "stopped"
        if self._open_doors() > 0:
            raise CallRefused(f"lock all doors before starting; unlocked are: {', '.join(self._unlocked())}")
        if self.brakePedalStatus != "pressed" or self._brake_force != FULL_BRAKE_N:
            raise CallRefused("press the brake pedal fully before starting")
        if self.fuelLevel < 0:
            raise CallRefused("the tank is empty")
        if ignitionMode != "START":
            raise CallRefused(f"{ignitionMode} does not start the engine: START does")
        self.engineState = "running"
        return {"engineState": self.engineState, "fuelLevel": self.fuelLevel, "batteryVoltage": self.batteryVoltage}

    def pressBrakePedal(self, pedalPosition: float) -> Json:
        if not 0 <= pedalPosition <= 1:
            raise CallRefused(f"the pedal's position is {pedalPosition}: it is 0 to 1")
        self.brakePedalStatus = "pressed" if pedalPosition else "released"
        self._brake_force = float(pedalPosition * FULL_BRAKE_N)
        return {"brakePedalStatus": self.brakePedalStatus, "brakePedalForce": self._brake_force}

    def releaseBrakePedal(self) -> Json:
        return self.pressBrakePedal(0)

    def activateParkingBrake(self, mode: str) -> Json:
        if mode not in ("engage", "release"):
            raise CallRefused(f"no mode {mode}: engage or release")
        self.parkingBrakeStatus, self._parking_force = ("engaged", 500.0) if mode == "engage" else ("released", 0.0)
        self._slope = 10.0
        return {
            "parkingBrakeStatus": self.parkingBrakeStatus,
            "_parkingBrakeForce": self._parking_force,
            "_slopeAngle": self._slope,
        }

    def setCruiseControl(self, speed: float, activate: bool, distanceToNextVehicle: float) -> Json:
        speed, distance = float(speed), float(distanceToNextVehicle)
        if self.engineState == "stopped":
            raise CallRefused("start the engine before the cruise control")
        self.distanceToNextVehicle = distance
        if activate and (not 0 <= speed <= 120 or speed % 5):
            raise CallRefused(f"the speed is {speed}: it is 0 to 120, in steps of 5")
        self.cruiseStatus = "active" if activate else "inactive"
        return {"cruiseStatus": self.cruiseStatus, "currentSpeed": speed, "distanceToNextVehicle": distance}

    def get_current_speed(self) -> Json:
        return {"currentSpeed": self._random.uniform(0.0, 120.0)}

    def fillFuelTank(self, fuelAmount: float) -> Json:
        if fuelAmount < 0:
            raise CallRefused("the amount of fuel cannot be negative")
        if self.fuelLevel + fuelAmount > TANK_GALLONS:
            raise CallRefused(f"{self.fuelLevel} and {fuelAmount} gallons are more than the tank's {TANK_GALLONS}")
        self.fuelLevel += fuelAmount
        return {"fuelLevel": self.fuelLevel}

    def estimate_drive_feasibility_by_mileage(self, distance: float) -> Json:
        return {"canDrive": self.fuelLevel * MILES_PER_GALLON >= distance}

    # -- doors, climate, lights --------------------------------------------------------------------

    def lockDoors(self, unlock: bool, door: list[str]) -> Json:
        status = "unlocked" if unlock else "locked"
        for name in door:
            if name not in self.doorStatus:
                raise CallRefused(f"no door {name}: there are {', '.join(self.doorStatus)}")
            self.doorStatus[name] = status
        return {"lockStatus": status, "remainingUnlockedDoors": self._open_doors()}

    def adjustClimateControl(
        self, temperature: float, unit: str = "celsius", fanSpeed: int = 50, mode: str = "auto"
    ) -> Json:
        if not 0 <= fanSpeed <= 100:
            raise CallRefused(f"the fan's speed is {fanSpeed}: it is 0 to 100")
        self.acTemperature = (temperature - 32) * 5 / 9 if unit == "fahrenheit" else temperature
        self.fanSpeed, self.acMode = fanSpeed, mode
        return {"currentACTemperature": temperature, "climateMode": mode, "humidityLevel": self.humidityLevel}

    def setHeadlights(self, mode: str) -> Json:
        if mode not in ("on", "off", "auto"):
            raise CallRefused(f"no mode {mode}: on, off or auto")
        self.headLightStatus = "on" if mode == "on" else "off"
        return {"headlightStatus": self.headLightStatus}

    def displayCarStatus(self, option: str) -> Json:
        views: dict[str, Json] = {
            "fuel": {"fuelLevel": self.fuelLevel},
            "battery": {"batteryVoltage": self.batteryVoltage},
            "doors": {"doorStatus": self.doorStatus},
            "climate": {
                "currentACTemperature": self.acTemperature, "fanSpeed": self.fanSpeed, "climateMode": self.acMode,
                "humidityLevel": self.humidityLevel,
            },
            "headlights": {"headlightStatus": self.headLightStatus},
            "parkingBrake": {
                "parkingBrakeStatus": self.parkingBrakeStatus, "parkingBrakeForce": self._parking_force,
                "slopeAngle": self._slope,
            },
            "brakePedal": {"brakePedalStatus": self.brakePedalStatus, "brakePedalForce": self._brake_force},
            "engine": {"engineState": self.engineState},
        }  # fmt: skip
        if option not in views:
            raise CallRefused(f"no view {option}: there are {', '.join(views)}")
        return views[option]

    def check_tire_pressure(self) -> Json:
        pressures = {tire: getattr(self, tire) for tire in TIRES}
        return {**pressures, "healthy_tire_pressure": 30 <= sum(pressures.values()) / 4 <= 35, "car_info": {}}

    def display_log(self, messages: list[str]) -> Json:
        return {"log": messages}

    # -- the world outside -------------------------------------------------------------------------

    def get_outside_temperature_from_google(self) -> Json:
        return {"outsideTemperature": self._random.uniform(-10.0, 40.0)}

    def get_outside_temperature_from_weather_com(self) -> Json:
        return {"error": 404}  # so it is meant: the other source is the one that answers

    def liter_to_gallon(self, liter: float) -> Json:
        return {"gallon": liter * 0.264172}

    def gallon_to_liter(self, gallon: float) -> Json:
        return {"liter": gallon * 3.78541}

    def get_zipcode_based_on_city(self, city: str) -> Json:
        return {"zipcode": ZIP_CODES.get(city, "00000")}

    def estimate_distance(self, cityA: str, cityB: str) -> Json:
        miles = MILES.get((cityA, cityB), MILES.get((cityB, cityA)))
        if miles is None:
            raise CallRefused(f"no distance known from {cityA} to {cityB}")
        return {"distance": miles}

    def set_navigation(self, destination: str) -> Json:
        self.destination = destination
        return {"status": f"Navigating to {destination}"}

    def find_nearest_tire_shop(self) -> Json:
        return {"shopLocation": "456 Oakwood Avenue, Rivermist, 83214"}
