// Vectors of the scene's files in three.js axes: OpenCV has y down and z forward, three.js y up and
// z backward.
import * as THREE from "three";

export const fromOpenCV = ([x, y, z]) => new THREE.Vector3(x, -y, -z);
